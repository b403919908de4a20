package worker

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"maps"
	"os"
	"sync"

	"golang.org/x/time/rate"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/failpoint"
	"github.com/lintelrun/lintel/internal/spillfile"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/parts"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/statebackend"
)

// Uploads says how snapshots go to the store of checkpoints.
type Uploads struct {
	// AtOnce is how many tasks write theirs at once, of all jobs; default 4.
	AtOnce int
	// BytesPerSecond bounds what all of them upload together; 0 is no bound.
	BytesPerSecond int
}

// uploadLimit bounds what the tasks of a worker upload.
type uploadLimit struct {
	slots chan struct{}
	rate  *rate.Limiter // nil for no bound
}

func newUploadLimit(u Uploads) *uploadLimit {
	l := &uploadLimit{slots: make(chan struct{}, u.AtOnce)}
	if u.BytesPerSecond > 0 {
		l.rate = rate.NewLimiter(rate.Limit(u.BytesPerSecond), u.BytesPerSecond)
	}
	return l
}

// acquire waits for a slot, which release gives back.
func (l *uploadLimit) acquire(ctx context.Context) error {
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *uploadLimit) release() { <-l.slots }

// pay waits until so many bytes may be uploaded.
func (l *uploadLimit) pay(ctx context.Context, bytes int64) error {
	for l.rate != nil && bytes > 0 {
		n := min(bytes, int64(l.rate.Burst()))
		if err := l.rate.WaitN(ctx, int(n)); err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		bytes -= n
	}
	return nil
}

// storeFiles are the files of a task's store and spool that checkpoints have, by epoch and name.
type storeFiles struct {
	mu     sync.Mutex
	epochs map[uint64]map[string]protocol.File
}

// of returns those of the checkpoint of an epoch. It forgets older ones: no snapshot is taken over them any more.
func (f *storeFiles) of(epoch uint64) map[string]protocol.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	for e := range f.epochs {
		if e < epoch {
			delete(f.epochs, e)
		}
	}
	return f.epochs[epoch]
}

// add adds files of an epoch, whose snapshot is not yet answered or restored.
func (f *storeFiles) add(epoch uint64, files map[string]protocol.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.epochs == nil {
		f.epochs = map[uint64]map[string]protocol.File{}
	}
	if f.epochs[epoch] == nil {
		f.epochs[epoch] = map[string]protocol.File{}
	}
	maps.Copy(f.epochs[epoch], files)
}

// upload writes a snapshot and answers, beside the task.
func (c *checkpointer) upload(s *snapshot) {
	t := s.task
	epoch := c.of(s.epoch)
	if epoch == nil { // it has just ended
		s.drop()
		return
	}
	t.uploads.Go(func() {
		ctx, cancel := context.WithCancel(t.uploading)
		defer cancel()
		defer context.AfterFunc(epoch.context, cancel)()
		answer := rpc.Answer{Task: t.place, Epoch: s.epoch, Metrics: s.counted.Infos()}
		if answer.Err = s.err; answer.Err == nil {
			answer.Snapshot, answer.Err = c.write(ctx, s)
		}
		s.drop()
		failpoint.Hit(failpoint.AfterUpload)
		c.answers.put(answer)
	})
}

// awaitUploads waits until the snapshots of a task that has ended are written; if it has failed, nobody wants them.
func (t *task) awaitUploads(err error) {
	if err != nil {
		t.stopUploads()
	}
	t.uploads.Wait()
}

func (c *checkpointer) write(ctx context.Context, s *snapshot) (protocol.Snapshot, error) {
	if err := c.limit.acquire(ctx); err != nil {
		return protocol.Snapshot{}, err
	}
	defer c.limit.release()
	w := &snapshotWriter{c: c, s: s, names: map[string]protocol.File{}, snapshot: protocol.Snapshot{Task: c.tasks[s.task.place]}, file: partFile{dir: c.e.dir}}
	defer w.file.close()
	if err := w.image(ctx); err != nil {
		return protocol.Snapshot{}, err
	}
	if err := w.parts(); err != nil {
		return protocol.Snapshot{}, err
	}
	if err := w.finish(ctx); err != nil {
		return protocol.Snapshot{}, err
	}
	if err := w.spool(ctx); err != nil {
		return protocol.Snapshot{}, err
	}
	if !s.savepoint { // over whose files nothing is taken
		s.task.files.add(s.epoch, w.names)
	}
	return w.snapshot, nil
}

// snapshotWriter makes an answer of a snapshot.
type snapshotWriter struct {
	c        *checkpointer
	s        *snapshot
	snapshot protocol.Snapshot
	file     partFile
	names    map[string]protocol.File // files of the store and the spool
}

func (w *snapshotWriter) put(ctx context.Context, size int64, content io.ReadSeeker) (protocol.File, error) {
	if err := w.c.limit.pay(ctx, size); err != nil {
		return protocol.File{}, err
	}
	return w.c.e.d.Checkpoints.Put(ctx, w.s.epoch, uint64(w.s.task.place), content)
}

// image puts the files of the store that the checkpoint before doesn't have.
func (w *snapshotWriter) image(ctx context.Context) error {
	image := w.s.image
	if image == nil {
		return nil
	}
	kind := protocol.State
	if image.Form() == statebackend.Tables {
		kind = protocol.Tables
	}
	return image.Write(ctx, func(f statebackend.File, content io.ReadSeeker) error {
		file, err := w.s.held[f.Name], error(nil)
		if content != nil {
			file, err = w.put(ctx, f.Size, content)
		}
		if err != nil {
			return err
		}
		w.add(protocol.Part{Kind: kind, Name: f.Name, FirstGroup: f.FirstGroup, EndGroup: f.EndGroup}, file)
		return nil
	})
}

// add adds a part that is a whole file, of those that later snapshots may name again.
func (w *snapshotWriter) add(part protocol.Part, file protocol.File) {
	w.names[part.Name] = file
	part.Span = protocol.Span{File: len(w.snapshot.Files), Length: file.Size}
	w.snapshot.Files = append(w.snapshot.Files, file)
	w.snapshot.Task.Parts = append(w.snapshot.Task.Parts, part)
}

// parts writes the small parts, in the order of their kinds.
func (w *snapshotWriter) parts() error {
	s, t := w.s, w.s.task
	w.snapshot.Task.Input, w.snapshot.Task.Output, w.snapshot.Task.Hold = s.input, s.output, coders.MaxTimestamp
	w.snapshot.Task.Channels = w.c.channels(t.stage)
	for i := range s.channels {
		w.snapshot.Task.Channels[i].Watermark = s.channels[i]
	}
	if s.core != nil {
		if err := w.core(); err != nil {
			return err
		}
	} else if len(s.arrived) > 0 {
		if err := w.queue(protocol.Part{Kind: protocol.Inbox}, s.arrived); err != nil {
			return err
		}
	}
	for _, p := range s.parked {
		if err := w.queue(protocol.Part{Kind: protocol.Parked, Name: p.window, Index: p.index}, p.queue); err != nil {
			return err
		}
	}
	if err := w.outbox(); err != nil {
		return err
	}
	if s.side != nil {
		if err := w.side(); err != nil {
			return err
		}
	}
	switch {
	case s.panes != nil:
		if err := w.bytes(protocol.Part{Kind: protocol.Position}, parts.AppendPanes(nil, s.panes)); err != nil || s.spool == nil {
			return err
		}
		return w.bytes(protocol.Part{Kind: protocol.Spool}, parts.AppendSpool(nil, &s.spool.Spool))
	case s.stream != nil:
		return w.bytes(protocol.Part{Kind: protocol.Position}, parts.AppendStream(nil, s.stream))
	}
	return nil
}

// Indices of parts of what is parked: of what waits for all side inputs as a whole or for a checkpoint, and of what a source keeps that
// holds back. Those of what waits for windows have 0.
const (
	wholeParked = 1
	keptParked  = 2
)

func (w *snapshotWriter) core() error {
	core := w.s.core
	if core.Draining || core.Round != (engine.Round{}) || len(core.Bundles)+len(core.Inbox)+len(core.Marks) > 0 {
		if err := w.bytes(protocol.Part{Kind: protocol.Inbox}, parts.AppendInbox(nil, core)); err != nil {
			return err
		}
	}
	if len(core.Residuals) == 0 {
		return nil
	}
	part := protocol.Part{Kind: protocol.Residuals, Elements: int64(len(core.Residuals))}
	return w.bytes(part, parts.AppendResiduals(nil, core.Residuals))
}

func (w *snapshotWriter) outbox() error {
	for _, r := range w.s.task.routes {
		for i := range r.tasks {
			waiting := w.s.outbox[r.first+i]
			if len(waiting) == 0 {
				continue
			}
			queue := make([]queued, len(waiting))
			for j, e := range waiting {
				queue[j] = queued{Entry: parts.Entry{Data: e.Frame != nil, Watermark: e.Watermark}, stored: e.Frame}
				waiting[j].Frame = nil // queue has it now
			}
			part := protocol.Part{Kind: protocol.Outbox, Name: w.c.edges[r.edge.Index], Index: i}
			if err := w.queue(part, queue); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *snapshotWriter) side() error {
	for _, content := range w.s.side.Contents() {
		if err := w.file.write(parts.AppendSide(nil)); err != nil {
			return err
		}
		if err := content.Elements(w.file.write); err != nil {
			return err
		}
		w.end(protocol.Part{Kind: protocol.Side, Name: content.Window})
	}
	return nil
}

// queue writes a part of entries. Of those that it doesn't come to, frames are dropped.
func (w *snapshotWriter) queue(part protocol.Part, queue []queued) error {
	defer func() {
		for i := range queue {
			if queue[i].stored != nil {
				queue[i].stored.Drop()
				queue[i].stored = nil
			}
		}
	}()
	buf := parts.AppendEntries(nil)
	for i := range queue {
		e, err := queue[i].load()
		if err != nil {
			return err
		}
		part.Elements += int64(e.Frame.Elements)
		buf = parts.AppendEntry(buf, &e)
		if err := w.file.write(buf); err != nil {
			return err
		}
		buf = buf[:0]
	}
	if err := w.file.write(buf); err != nil {
		return err
	}
	w.end(part)
	return nil
}

// bytes writes a part that is all there.
func (w *snapshotWriter) bytes(part protocol.Part, b []byte) error {
	if err := w.file.write(b); err != nil {
		return err
	}
	w.end(part)
	return nil
}

// end ends a part of what was written since the one before. All of them are in one file, the next.
func (w *snapshotWriter) end(part protocol.Part) {
	part.Span = protocol.Span{File: len(w.snapshot.Files), Offset: w.file.begin, Length: w.file.size - w.file.begin}
	w.file.begin = w.file.size
	w.snapshot.Task.Parts = append(w.snapshot.Task.Parts, part)
}

// finish puts the file of the small parts, if there are any.
func (w *snapshotWriter) finish(ctx context.Context) error {
	if w.file.size == 0 {
		return nil
	}
	if err := w.file.out.Flush(); err != nil {
		return spillfile.Error(w.file.dir, "writing", err)
	}
	file, err := w.put(ctx, w.file.size, w.file.f)
	w.snapshot.Files = append(w.snapshot.Files, file)
	return err
}

// partFile is what the small parts of a snapshot are written to, one after the other.
type partFile struct {
	dir   string
	f     *os.File // once anything was written
	out   *bufio.Writer
	begin int64 // of the part that is being written
	size  int64
}

func (p *partFile) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if p.f == nil {
		f, err := spillfile.Create(p.dir)
		if err != nil {
			return err
		}
		p.f, p.out = f, bufio.NewWriter(f)
	}
	n, err := p.out.Write(b)
	p.size += int64(n)
	return spillfile.Error(p.dir, "writing", err)
}

func (p *partFile) close() {
	if p.f != nil {
		p.f.Close() // It has no name: nothing can be lost.
	}
}
