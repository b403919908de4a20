// Package filerecords keeps job records in a directory, a folder for each job:
//
//	<id>/job    who the job is, its options and its pipeline; written once
//	<id>/log    events, appended
//	<id>/end    the events of the job's end and its metrics; written once
//	<id>/staged       what a job that outlives the process has staged; written once
//	<id>/checkpoints  a job's checkpoints, appended
//
// A record begins with job and is complete with end; both are written beside
// their place and renamed, an end that is whole beside its place counts. The files are made of frames that each have a
// checksum; docs/format/job-records.md has them byte by byte. A log may break
// off anywhere: what is whole before that counts.
package filerecords

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice"
)

const (
	jobFile = "job"
	logFile = "log"
	endFile = "end"

	stagedFile      = "staged"
	checkpointsFile = "checkpoints"

	newFile = ".new" // suffix of what isn't in its place yet
)

// Records implements jobservice.Records. It is safe for concurrent use as that
// demands. A directory belongs to one Records at a time.
type Records struct{ root *os.Root }

var _ jobservice.Records = (*Records)(nil)

// Open opens or creates the records in dir.
func Open(dir string) (*Records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("job records: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("job records: %w", err)
	}
	return &Records{root}, nil
}

// Close releases the directory. No call may be running or follow.
func (r *Records) Close() error { return r.root.Close() }

// validID is what becomes the name of a folder.
var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,99}$`)

// Load implements jobservice.Records.
func (r *Records) Load(fn func(jobservice.Record, error)) error {
	entries, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := e.Name()
		if !e.IsDir() || !validID.MatchString(id) {
			continue // not ours
		}
		rec, err := r.load(id)
		if errors.Is(err, fs.ErrNotExist) { // a half of Create or Remove
			if err = r.Remove(id); err == nil {
				continue
			}
		}
		rec.ID = id
		fn(rec, err)
	}
	return nil
}

// load reads the beginnings of a job's files.
func (r *Records) load(id string) (rec jobservice.Record, err error) {
	err = r.read(id, jobFile, func(f *frames) error {
		h, err := expect(f, kindHeader, parseHeader)
		if err != nil {
			return err
		}
		if h.id != id {
			return fault.New(fault.Corruption, "the file is of job %q", h.id)
		}
		rec.Name, rec.Prepared, rec.Bytes = h.name, h.prepared, h.size
		rec.Options, err = expect(f, kindOptions, parseProto[structpb.Struct])
		return err
	})
	if err != nil {
		return rec, err
	}
	if err := r.completeEnding(id); err != nil {
		return rec, err
	}
	rec.Events, err = r.ending(id)
	rec.Ended = err == nil
	if errors.Is(err, fs.ErrNotExist) || fault.ClassOf(err) == fault.Corruption {
		err = nil // Resume tells more
	}
	return rec, err
}

// Create implements jobservice.Records.
func (r *Records) Create(rec jobservice.Record, p *pipepb.Pipeline) (jobservice.RecordWriter, error) {
	if !validID.MatchString(rec.ID) {
		return nil, fmt.Errorf("job record: %q can't be an id", rec.ID)
	}
	b, err := encodeJob(rec, p)
	if err != nil {
		return nil, fmt.Errorf("job record: %w", err)
	}
	if err := r.root.Mkdir(rec.ID, 0o700); err != nil {
		return nil, fmt.Errorf("job record: %w", err)
	}
	if err := r.publish(rec.ID, jobFile, b, func() error { return r.syncDir(".") }); err != nil {
		_ = r.root.RemoveAll(rec.ID) // what stays goes at the next start
		return nil, fmt.Errorf("job record: %w", err)
	}
	return &writer{records: r, id: rec.ID}, nil
}

func encodeJob(rec jobservice.Record, p *pipepb.Pipeline) ([]byte, error) {
	options, err := proto.Marshal(rec.Options)
	if err != nil {
		return nil, err
	}
	pipeline, err := proto.Marshal(p)
	if err != nil {
		return nil, err
	}
	h := appendHeader(nil, header{rec.ID, rec.Name, rec.Prepared, rec.Bytes})
	b := appendMagic(make([]byte, 0, len(h)+len(options)+len(pipeline)+64))
	for _, f := range []struct {
		kind    kind
		payload []byte
	}{{kindHeader, h}, {kindOptions, options}, {kindPipeline, pipeline}} {
		if b, err = appendFrame(b, f.kind, f.payload); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Resume implements jobservice.Records.
func (r *Records) Resume(id string) (jobservice.RecordWriter, []jobservice.Event, error) {
	_, endErr := r.ending(id)
	if endErr == nil {
		return nil, nil, fmt.Errorf("job record: job %s has ended", id)
	}
	events, length, err := r.log(id)
	if err != nil && fault.ClassOf(err) != fault.Corruption {
		return nil, nil, fmt.Errorf("job record: %w", err)
	}
	if !errors.Is(endErr, fs.ErrNotExist) {
		err = fault.Wrap(fault.Corruption, endErr)
	}
	return &writer{records: r, id: id, length: length}, events, err
}

// Remove implements jobservice.Records.
func (r *Records) Remove(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("job record: %q can't be an id", id)
	}
	// Without this file there is no record, whatever becomes of the rest.
	if err := r.root.Remove(path.Join(id, jobFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("job record: %w", err)
	}
	if err := r.root.RemoveAll(id); err != nil {
		return fmt.Errorf("job record: %w", err)
	}
	return nil
}

// Pipeline implements jobservice.Records.
func (r *Records) Pipeline(id string) (p *pipepb.Pipeline, err error) {
	err = r.read(id, jobFile, func(f *frames) error {
		for {
			k, payload, err := f.next()
			if err != nil {
				return whole(err)
			}
			if k == kindPipeline {
				p, err = parseProto[pipepb.Pipeline](payload)
				return err
			}
		}
	})
	return p, err
}

// Metrics implements jobservice.Records.
func (r *Records) Metrics(id string) (m *jobpb.MetricResults, err error) {
	err = r.read(id, endFile, func(f *frames) error {
		for {
			k, payload, err := f.next()
			if err != nil {
				return whole(err)
			}
			if k == kindMetrics {
				m, err = parseProto[jobpb.MetricResults](payload)
				return err
			}
		}
	})
	return m, err
}

// Events implements jobservice.Records.
func (r *Records) Events(id string) ([]jobservice.Event, error) {
	events, _, err := r.log(id)
	if err != nil && fault.ClassOf(err) != fault.Corruption {
		return nil, err
	}
	last, endErr := r.ending(id)
	if endErr != nil && !errors.Is(endErr, fs.ErrNotExist) {
		err = errors.Join(err, endErr)
	}
	return merge(events, last), err
}

// merge joins lists that are ordered by Seq and may have events in common.
func merge(a, b []jobservice.Event) []jobservice.Event {
	bySeq := func(x, y jobservice.Event) int { return int(max(-1, min(1, x.Seq-y.Seq))) }
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, bySeq)
	return slices.CompactFunc(all, func(x, y jobservice.Event) bool { return x.Seq == y.Seq })
}

// log returns the events of a job's log that are whole, and how many bytes they
// take with what is before them.
func (r *Records) log(id string) (events []jobservice.Event, length int64, err error) {
	err = r.read(id, logFile, func(f *frames) error {
		length, err = f.each(kindEvent, "in a log", func(payload []byte) error {
			e, err := parseEvent(payload)
			if err != nil {
				return err
			}
			if n := len(events); n > 0 && e.Seq <= events[n-1].Seq {
				return fault.New(fault.Corruption, "event %d follows event %d", e.Seq, events[n-1].Seq)
			}
			events = append(events, e)
			return nil
		})
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errTorn) {
		return nil, 0, nil
	}
	return events, length, err
}

// ending returns the events of a job's end; the error is fs.ErrNotExist if it has not ended.
func (r *Records) ending(id string) ([]jobservice.Event, error) { return r.endingIn(id, endFile) }

// completeEnding puts the end of a job that has none in its place, if it is beside that: the crash of a
// machine may take back that it was renamed. One that is not whole was never told.
func (r *Records) completeEnding(id string) error {
	if _, err := r.root.Lstat(path.Join(id, endFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := r.endingIn(id, endFile+newFile); err != nil {
		return nil
	}
	return r.root.Rename(path.Join(id, endFile+newFile), path.Join(id, endFile))
}

func (r *Records) endingIn(id, name string) (events []jobservice.Event, err error) {
	err = r.read(id, name, func(f *frames) error {
		for {
			k, payload, err := f.next()
			if err != nil {
				return whole(err)
			}
			if k == kindMetrics {
				return nil
			}
			if k != kindEvent {
				return fault.New(fault.Corruption, "a frame of kind %d among events", k)
			}
			e, err := parseEvent(payload)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
	})
	if err == nil && (len(events) == 0 || !jobservice.Terminal(events[len(events)-1].State)) {
		err = fault.New(fault.Corruption, "job record: file %s/%s doesn't tell how the job ended", id, name)
	}
	if err != nil {
		return nil, err
	}
	return events, nil
}

// read calls fn with the frames of a file.
func (r *Records) read(id, name string, fn func(*frames) error) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("job record %q: %w", id, fs.ErrNotExist)
	}
	file, err := r.root.Open(path.Join(id, name))
	if err != nil {
		return fmt.Errorf("job record: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("job record: %w", err)
	}
	f, err := newFrames(bufio.NewReader(file), info.Size())
	if err == nil {
		err = fn(f)
	} else if name != logFile {
		err = whole(err)
	}
	if err != nil {
		return fmt.Errorf("job record: file %s/%s: %w", id, name, err)
	}
	return nil
}

// whole is for files that are in their place only when they are complete: one
// that breaks off is damaged.
func whole(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
		return fault.New(fault.Corruption, "%w", errTorn)
	}
	return err
}

// expect reads one frame of the given kind.
func expect[T any](f *frames, want kind, parse func([]byte) (T, error)) (v T, err error) {
	k, payload, err := f.next()
	if err != nil {
		return v, whole(err)
	}
	if k != want {
		return v, fault.New(fault.Corruption, "a frame of kind %d in place of kind %d", k, want)
	}
	return parse(payload)
}

// parseProto parses a message of type *T.
func parseProto[T any, M interface {
	*T
	proto.Message
}](b []byte) (*T, error) {
	m := new(T)
	if err := proto.Unmarshal(b, M(m)); err != nil {
		return nil, fault.Wrap(fault.Corruption, err)
	}
	return m, nil
}

// publish writes a file of a job and puts it in its place in one step. It is flushed to the disk before
// that, and others with it.
func (r *Records) publish(id, name string, content []byte, others ...func() error) error {
	if err := r.replace(id, name, content, func(f *os.File) error { return together(append(others, f.Sync)...) }); err != nil {
		return err
	}
	return r.syncDir(id)
}

// replace writes a file of a job beside its place and renames it once flush has done with it.
func (r *Records) replace(id, name string, content []byte, flush func(*os.File) error) error {
	place := path.Join(id, name)
	f, err := r.root.OpenFile(place+newFile, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = flush(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.root.Rename(place+newFile, place)
	}
	if err != nil {
		_ = r.root.Remove(place + newFile) // else overwritten or removed with the record
	}
	return err
}

// together does things side by side: flushes then take the disk as long as one.
func together(things ...func() error) error {
	var all errgroup.Group
	for _, do := range things {
		all.Go(do)
	}
	return all.Wait()
}

func (r *Records) syncDir(name string) error {
	d, err := r.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
