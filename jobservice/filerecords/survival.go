package filerecords

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice"
)

// Keep implements jobservice.Records.
func (r *Records) Keep(id string, s jobservice.Kept) error {
	c := &pipepb.Components{Environments: map[string]*pipepb.Environment{}}
	for env, dependencies := range s.Dependencies {
		c.Environments[env] = &pipepb.Environment{Dependencies: dependencies}
	}
	staged, err := proto.Marshal(c)
	if err != nil {
		return err
	}
	b, err := appendFrame(appendMagic(nil), kindToken, []byte(s.Token))
	if err == nil {
		b, err = appendFrame(b, kindStaged, staged)
	}
	for _, sum := range s.Blobs {
		if err == nil {
			b, err = appendFrame(b, kindBlob, []byte(sum))
		}
	}
	if err == nil && s.Replaces != "" {
		b, err = appendFrame(b, kindReplaces, appendReplaces(nil, s))
	}
	if err != nil {
		return err
	}
	return r.publish(id, stagedFile, b)
}

// Kept implements jobservice.Records.
func (r *Records) Kept(id string) (s jobservice.Kept, err error) {
	err = r.read(id, stagedFile, func(f *frames) error {
		text := func(b []byte) (string, error) { return string(b), nil }
		if s.Token, err = expect(f, kindToken, text); err != nil {
			return err
		}
		c, err := expect(f, kindStaged, parseProto[pipepb.Components])
		if err != nil {
			return err
		}
		s.Dependencies = map[string][]*pipepb.ArtifactInformation{}
		for env, e := range c.GetEnvironments() {
			s.Dependencies[env] = e.GetDependencies()
		}
		for f.left > 0 {
			k, b, err := f.next()
			switch {
			case err != nil:
				return whole(err)
			case k == kindBlob:
				s.Blobs = append(s.Blobs, string(b))
			case k == kindReplaces:
				err = parseReplaces(b, &s)
			default:
				err = fault.New(fault.Corruption, "a frame of kind %d among staged files", k)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

func appendReplaces(b []byte, s jobservice.Kept) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.Replaces)))
	return append(append(b, s.Replaces...), s.RestoreFrom...)
}

func parseReplaces(b []byte, s *jobservice.Kept) error {
	p := parser{b: b}
	n := p.uvarint()
	if p.failed || n > uint64(len(p.b)) {
		return fault.New(fault.Corruption, "not what job it replaces")
	}
	s.Replaces, s.RestoreFrom = string(p.b[:n]), string(p.b[n:])
	return nil
}

// AddCheckpoint implements jobservice.Records.
func (r *Records) AddCheckpoint(id string, c jobservice.Checkpoint) error {
	list, length, err := r.checkpoints(id)
	if err != nil && fault.ClassOf(err) != fault.Corruption {
		return err
	}
	if err != nil || length == 0 || len(list) >= 4*jobservice.KeptCheckpoints {
		list = jobservice.TrimCheckpoints(append(list, c))
		b := appendMagic(nil)
		for _, c := range list {
			if b, err = appendFrame(b, kindCheckpoint, appendCheckpoint(nil, c)); err != nil {
				return err
			}
		}
		return r.publish(id, checkpointsFile, b)
	}
	b, err := appendFrame(nil, kindCheckpoint, appendCheckpoint(nil, c))
	if err != nil {
		return err
	}
	f, err := r.root.OpenFile(path.Join(id, checkpointsFile), os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(length) // what a crash has cut goes
	if err == nil {
		_, err = f.WriteAt(b, length)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Checkpoints implements jobservice.Records.
func (r *Records) Checkpoints(id string) ([]jobservice.Checkpoint, error) {
	list, _, err := r.checkpoints(id)
	return jobservice.TrimCheckpoints(list), err
}

// checkpoints returns those that are whole, and how many bytes they take with what is before them.
func (r *Records) checkpoints(id string) (list []jobservice.Checkpoint, length int64, err error) {
	err = r.read(id, checkpointsFile, func(f *frames) error {
		length, err = f.each(kindCheckpoint, "among checkpoints", func(payload []byte) error {
			c, err := parseCheckpoint(payload)
			if err != nil {
				return err
			}
			list = append(list, c)
			return nil
		})
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	return list, length, err
}

func appendCheckpoint(b []byte, c jobservice.Checkpoint) []byte {
	b = binary.AppendUvarint(b, c.Epoch)
	b = binary.AppendUvarint(b, c.Generation)
	b = binary.AppendVarint(b, c.Began.UnixNano())
	b = binary.AppendVarint(b, c.Ended.UnixNano())
	b = binary.AppendUvarint(b, uint64(c.Bytes))
	b = binary.AppendUvarint(b, uint64(c.NewBytes))
	b = binary.AppendUvarint(b, uint64(len(c.Savepoint)))
	return append(append(b, c.Savepoint...), c.Failure...)
}

func parseCheckpoint(b []byte) (c jobservice.Checkpoint, err error) {
	p := parser{b: b}
	c.Epoch, c.Generation = p.uvarint(), p.uvarint()
	began, ended := p.varint(), p.varint()
	size, fresh, uri := p.uvarint(), p.uvarint(), p.uvarint()
	if p.failed || size > math.MaxInt64 || fresh > math.MaxInt64 || uri > uint64(len(p.b)) {
		return c, fault.New(fault.Corruption, "not a checkpoint")
	}
	c.Began, c.Ended = time.Unix(0, began).UTC(), time.Unix(0, ended).UTC()
	c.Bytes, c.NewBytes = int64(size), int64(fresh)
	c.Savepoint, c.Failure = strings.ToValidUTF8(string(p.b[:uri]), "\uFFFD"), strings.ToValidUTF8(string(p.b[uri:]), "\uFFFD")
	return c, nil
}
