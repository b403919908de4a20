package checkpointing

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/spillfile"
)

// Export makes a savepoint of a checkpoint, in a folder of its own that is empty: its files are copied and
// checked, and its manifest is written last. The repository has to keep them meanwhile: the checkpoint's epoch
// is to be among those under way. Dir is for files on their way. To go on with an export that broke off
// is to call it again; what is left of it otherwise DeleteSavepoint removes.
func (r *Repository) Export(ctx context.Context, m *protocol.Manifest, to Store, dir string) (*protocol.Manifest, error) {
	s, copies := protocol.Detach(m)
	for _, c := range copies {
		if err := r.again(ctx, func() error { return copyFile(ctx, r.cfg.Store, to, c, dir) }); err != nil {
			return nil, fmt.Errorf("savepoint: %w", err)
		}
	}
	if err := r.create(ctx, to, protocol.SavepointManifest, s.Encode()); err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	return s, nil
}

func copyFile(ctx context.Context, from, to Store, c protocol.Copy, dir string) (err error) {
	in, err := openFile(ctx, from, c.From)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	on, err := spillfile.Copy(dir, in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, on.Close()) }()
	if _, err = on.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err = to.Create(ctx, c.To.Name(), on); errors.Is(err, ErrExists) {
		return check(ctx, to, c.To) // it was copied before
	}
	return err
}

// ReadSavepoint reads the manifest of a savepoint: an ErrAbsent if there is none.
func ReadSavepoint(ctx context.Context, s Store) (*protocol.Manifest, error) {
	in, err := s.Open(ctx, protocol.SavepointManifest)
	if err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(in, maxRecord+1))
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	m, err := protocol.DecodeManifest(data)
	if err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	if !m.Savepoint {
		return nil, fault.New(fault.Invalid, "this is checkpoint %d of job %s, which belongs to the job, and no savepoint", m.Epoch, m.Job.ID)
	}
	return m, nil
}

// Verify reads all files of a checkpoint or savepoint and returns what is wrong with each.
func Verify(ctx context.Context, s Store, m *protocol.Manifest) error {
	var wrong []error
	for _, f := range m.Files {
		err := check(ctx, s, f)
		if ctx.Err() != nil {
			return err
		}
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

// OpenFile reads a file of a savepoint, as Repository.Open does one of a checkpoint.
func OpenFile(ctx context.Context, s Store, f protocol.File) (io.ReadCloser, error) {
	return openFile(ctx, s, f)
}

// DeleteSavepoint removes a savepoint, or what is left of one, from its folder, and nothing else that may be
// there: an ErrAbsent if there is none.
func DeleteSavepoint(ctx context.Context, s Store) error {
	n, err := remove(ctx, s, protocol.SavepointObjects)
	if err == nil && n == 0 {
		err = fmt.Errorf("savepoint: %w", ErrAbsent)
	}
	return err
}

// Remove removes all of a job that is no more from its folder, and nothing else that may be there. Like all of a
// Repository it tries again what fails, until the context ends.
func Remove(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	r := &Repository{cfg: cfg}
	return r.again(ctx, func() error {
		_, err := remove(ctx, cfg.Store, protocol.JobObjects)
		return err
	})
}

// remove deletes those of all objects that choose returns, in its order, and returns how many it has deleted.
func remove(ctx context.Context, s Store, choose func([]protocol.Object) []string) (n int, err error) {
	var listed []protocol.Object
	err = s.List(ctx, "", func(name string, size int64) error {
		listed = append(listed, protocol.Object{Name: name, Size: size})
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, name := range choose(listed) {
		if err := s.Delete(ctx, name); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
