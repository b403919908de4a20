package checkpointing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/failpoint"
	"github.com/lintelrun/lintel/internal/fault"
)

// Config configures a Repository. Store is required.
type Config struct {
	// Store is the folder of the job.
	Store Store
	// Retain is how many of the newest checkpoints to keep; 3 if 0.
	Retain int
	// Pause after the first failure of a call of class fault.Retryable (100 ms if 0), doubled with each
	// further one up to MaxPause (5 s if 0); half of it is by chance. Calls are tried until their
	// context ends.
	Pause, MaxPause time.Duration
	// Failing, if not nil, is told of each failure after which a call is tried again.
	Failing func(error)
	// Logger for the operator. Nil is none.
	Logger *slog.Logger
}

// Validate fills in the defaults, or says what is wrong, as a fault.Invalid.
func (c *Config) Validate() error {
	if c.Store == nil {
		return fault.New(fault.Invalid, "checkpointing: Config needs a Store")
	}
	if c.Retain < 0 || c.Pause < 0 || c.MaxPause < 0 {
		return fault.New(fault.Invalid, "checkpointing: retaining %d, pauses of %v to %v must not be negative", c.Retain, c.Pause, c.MaxPause)
	}
	if c.Retain == 0 {
		c.Retain = 3
	}
	if c.Pause == 0 {
		c.Pause = 100 * time.Millisecond
	}
	if c.MaxPause == 0 {
		c.MaxPause = max(5*time.Second, c.Pause)
	}
	if c.Failing == nil {
		c.Failing = func(error) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Repository is the checkpoints of one job, as one generation of it reads and writes them. It may be
// used concurrently, but for Recover and Begin, which come first, in this order. Errors of class
// fault.Fenced say that a newer generation has begun: whoever gets one stops.
type Repository struct {
	cfg        Config
	generation uint64
	writer     uint64

	claiming chan struct{} // held by whoever claims an epoch
	last     uint64        // epoch that was claimed; of whoever claims

	mu       sync.Mutex // protects what follows
	numbers  map[fileSpace]uint64
	complete []protocol.Checkpoint
	orphaned []uint64
}

// fileSpace is what files are numbered in.
type fileSpace struct{ epoch, task uint64 }

// NewGeneration claims the next generation of a job. From then on older ones are fenced.
func NewGeneration(ctx context.Context, cfg Config) (*Repository, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Repository{cfg: cfg, writer: rand.Uint64(), numbers: map[fileSpace]uint64{}, claiming: make(chan struct{}, 1)}
	listed, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	r.generation = protocol.NewestGeneration(listed)
	for {
		r.generation++
		mine, err := r.claim(ctx, protocol.GenerationName(r.generation))
		if err != nil {
			return nil, err
		}
		if mine {
			return r, nil
		}
	}
}

// Generation is the number that was claimed.
func (r *Repository) Generation() uint64 { return r.generation }

// claim creates an object that only one can, and tells whether this one has.
func (r *Repository) claim(ctx context.Context, name string) (bool, error) {
	c := protocol.Claim{Generation: r.generation, Writer: r.writer}
	err := r.create(ctx, r.cfg.Store, name, c.Encode())
	if errors.Is(err, errOther) {
		return false, nil
	}
	return err == nil, err
}

// errOther is returned by create where the object is there and is another.
var errOther = errors.New("there is another object of that name")

// create makes a small object, or finds that it did so before and didn't hear of it.
func (r *Repository) create(ctx context.Context, s Store, name string, data []byte) error {
	err := r.again(ctx, func() error { return s.Create(ctx, name, bytes.NewReader(data)) })
	if !errors.Is(err, ErrExists) {
		return err
	}
	got, err := r.read(ctx, s, name)
	if err != nil {
		return err
	}
	if !bytes.Equal(got.Data, data) {
		return fmt.Errorf("checkpointing: %s: %w", name, errOther)
	}
	return nil
}

// again calls do until it returns another than a retryable error.
func (r *Repository) again(ctx context.Context, do func() error) error {
	for pause := r.cfg.Pause; ; pause = min(2*pause, r.cfg.MaxPause) {
		err := do()
		if fault.ClassOf(err) != fault.Retryable {
			return err
		}
		r.cfg.Logger.Warn("checkpoint store failed, trying again", "error", err)
		r.cfg.Failing(err)
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (the checkpoint store: %w)", ctx.Err(), err)
		}
	}
}

// maxRecord is how large manifests and claims may be.
const maxRecord = 256 << 20

// read reads an object for a decision. An error is one of the context.
func (r *Repository) read(ctx context.Context, s Store, name string) (protocol.Read, error) {
	var data []byte
	err := r.again(ctx, func() error {
		in, err := s.Open(ctx, name)
		if err != nil {
			return err
		}
		data, err = io.ReadAll(io.LimitReader(in, maxRecord+1))
		return errors.Join(err, in.Close())
	})
	switch {
	case err == nil && len(data) > maxRecord:
		return protocol.Read{Problem: fmt.Sprintf("more than %d bytes", maxRecord)}, nil
	case err == nil:
		return protocol.Read{Data: data}, nil
	case errors.Is(err, ErrAbsent):
		return protocol.Read{Absent: true}, nil
	case ctx.Err() != nil:
		return protocol.Read{}, err
	}
	return protocol.Read{Problem: err.Error()}, nil
}

func (r *Repository) list(ctx context.Context) ([]protocol.Object, error) {
	var listed []protocol.Object
	err := r.again(ctx, func() error {
		listed = listed[:0]
		return r.cfg.Store.List(ctx, "", func(name string, size int64) error {
			listed = append(listed, protocol.Object{Name: name, Size: size})
			return nil
		})
	})
	return listed, err
}

// Wish is what is known when a job begins again.
type Wish struct {
	// AtLeast is the newest epoch that is known to be complete, 0 if none is.
	AtLeast uint64
	// Bad are epochs whose files turned out to be damaged.
	Bad map[uint64]string
	// Strict refuses older checkpoints than the newest.
	Strict bool
}

// Recover decides what to begin with. Whoever finds, before Begin, that a file of it is damaged says so in
// w.Bad and calls again. An error is of the store; that nothing can be used is an outcome.
func (r *Repository) Recover(ctx context.Context, w Wish) (protocol.Decision, error) {
	listed, err := r.list(ctx)
	if err != nil {
		return protocol.Decision{}, err
	}
	f := protocol.Facts{
		Generation: r.generation, Listed: listed, AtLeast: w.AtLeast, Bad: w.Bad, Strict: w.Strict,
		Read: map[string]protocol.Read{}, Found: map[string]int64{},
	}
	for {
		d := protocol.Recover(f)
		if d.Outcome == protocol.ReadMore {
			if err := r.lookUp(ctx, f, d.Read, d.Find); err != nil {
				return d, err
			}
			continue
		}
		for _, s := range d.Skipped {
			r.cfg.Logger.Warn("checkpoint can't be used", "epoch", s.Epoch, "reason", s.Reason)
		}
		r.last = d.Last
		return d, r.survey(ctx, f)
	}
}

// lookUp adds what a decision asks for to the facts.
func (r *Repository) lookUp(ctx context.Context, f protocol.Facts, read, find []string) error {
	for _, name := range read {
		got, err := r.read(ctx, r.cfg.Store, name)
		if err != nil {
			return err
		}
		f.Read[name] = got
	}
	for _, name := range find {
		size := int64(protocol.Absent)
		err := r.again(ctx, func() (err error) {
			size, err = r.cfg.Store.Stat(ctx, name)
			return err
		})
		if errors.Is(err, ErrAbsent) {
			size, err = protocol.Absent, nil
		}
		if err != nil {
			return err
		}
		f.Found[name] = size
	}
	return nil
}

// survey finds out which manifests count, for garbage collection.
func (r *Repository) survey(ctx context.Context, f protocol.Facts) error {
	for {
		complete, orphaned, read := protocol.Survey(f)
		if len(read) == 0 {
			r.complete, r.orphaned = complete, orphaned
			return nil
		}
		if err := r.lookUp(ctx, f, read, nil); err != nil {
			return err
		}
	}
}

// Begin notes for good what the generation begins with: what was decided, or the savepoint at a URI.
// Checkpoints may be taken after that.
func (r *Repository) Begin(ctx context.Context, d protocol.Decision, savepoint string) error {
	b := protocol.Base{Generation: r.generation, Savepoint: d.Savepoint}
	switch {
	case d.Outcome == protocol.Restore && savepoint == "":
		b.Epoch = d.Manifest.Epoch
	case savepoint != "":
		b.Savepoint = savepoint
	}
	if err := r.create(ctx, r.cfg.Store, protocol.BaseName(r.generation), b.Encode()); err != nil {
		return err
	}
	// What is newer than that does not count any more.
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complete = slices.DeleteFunc(r.complete, func(c protocol.Checkpoint) bool {
		if c.Epoch > b.Epoch {
			r.orphaned = append(r.orphaned, c.Epoch)
		}
		return c.Epoch > b.Epoch
	})
	return r.replaced(ctx)
}

// replaced returns a fault.Fenced if there is a newer generation.
func (r *Repository) replaced(ctx context.Context) error {
	next, err := r.read(ctx, r.cfg.Store, protocol.GenerationName(r.generation+1))
	if err != nil {
		return err
	}
	return protocol.Replaced(r.generation, next)
}

// Claim claims the next epoch.
func (r *Repository) Claim(ctx context.Context) (uint64, error) {
	select { // one after the other, and nothing else waits for a slow store
	case r.claiming <- struct{}{}:
		defer func() { <-r.claiming }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		epoch := r.last + 1
		mine, err := r.claim(ctx, protocol.ClaimName(epoch))
		if err != nil {
			return 0, err
		}
		if r.last = epoch; mine {
			return epoch, nil
		}
	}
}

// Put uploads content, from its beginning on, as a file of an epoch. Task is a number that no other
// task of the generation has.
func (r *Repository) Put(ctx context.Context, epoch, task uint64, content io.ReadSeeker) (protocol.File, error) {
	sum := newSummer()
	if err := rewind(content, sum); err != nil {
		return protocol.File{}, err
	}
	for {
		f := protocol.File{FileID: r.nextFile(epoch, task), Size: sum.size, CRC32C: sum.Sum32()}
		err := r.again(ctx, func() error {
			if err := rewind(content, nil); err != nil {
				return err
			}
			return r.cfg.Store.Create(ctx, f.Name(), content)
		})
		if errors.Is(err, ErrExists) { // perhaps by us, and we didn't hear of it
			if err = r.Check(ctx, f); fault.ClassOf(err) == fault.Corruption {
				continue
			}
		}
		return f, err
	}
}

func (r *Repository) nextFile(epoch, task uint64) protocol.FileID {
	r.mu.Lock()
	defer r.mu.Unlock()
	for space := range r.numbers {
		if space.epoch+1000 < epoch {
			delete(r.numbers, space) // none of that epoch is still under way
		}
	}
	space := fileSpace{epoch, task}
	n := r.numbers[space]
	r.numbers[space]++
	return protocol.FileID{Epoch: epoch, Generation: r.generation, Task: task, Number: n}
}

// Check reads a file and compares it with what is known of it: an error of class fault.Corruption if it is another, or not there.
func (r *Repository) Check(ctx context.Context, f protocol.File) error {
	return r.again(ctx, func() error { return check(ctx, r.cfg.Store, f) })
}

// Open reads a file. Reading its end is an error of class fault.Corruption unless all of it was
// as it should be: what was read is not to be used before.
func (r *Repository) Open(ctx context.Context, f protocol.File) (io.ReadCloser, error) {
	var in io.ReadCloser
	err := r.again(ctx, func() (err error) {
		in, err = openFile(ctx, r.cfg.Store, f)
		return err
	})
	return in, err
}

// Commit makes a checkpoint of a manifest, all of whose files are there. It returns nil once the checkpoint
// is durable and nobody has begun without it; any error but that of the context says that it
// isn't one and won't be.
func (r *Repository) Commit(ctx context.Context, m *protocol.Manifest) error {
	if m.Generation != r.generation {
		return fault.New(fault.Internal, "checkpointing: a manifest of generation %d from generation %d", m.Generation, r.generation)
	}
	if err := m.Validate(); err != nil {
		return err
	}
	failpoint.Hit(failpoint.BeforeManifest)
	if err := r.create(ctx, r.cfg.Store, protocol.ManifestName(m.Epoch), m.Encode()); err != nil {
		return err
	}
	failpoint.Hit(failpoint.AfterManifest)
	if err := r.replaced(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complete = append(r.complete, m.Checkpoint())
	return nil
}

// Collect removes what no checkpoint that is retained names, and returns how many objects. It calls
// underWay for the epochs that are, after it has listed. Not to be called concurrently.
func (r *Repository) Collect(ctx context.Context, underWay func() []protocol.UnderWay) (removed int, err error) {
	listed, err := r.list(ctx)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	h := protocol.Holdings{
		Generation: r.generation, Listed: listed, Retain: r.cfg.Retain, Orphaned: r.orphaned, UnderWay: underWay(), Complete: slices.Clone(r.complete),
	}
	r.mu.Unlock()
	g, err := protocol.Collect(h)
	if err != nil {
		return 0, err
	}
	failpoint.Hit(failpoint.BeforeCollect)
	for _, name := range append(g.Manifests, g.Others...) {
		if err := r.again(ctx, func() error { return r.cfg.Store.Delete(ctx, name) }); err != nil {
			return removed, err
		}
		removed++
		failpoint.Hit(failpoint.Collecting)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complete = slices.DeleteFunc(r.complete, func(c protocol.Checkpoint) bool {
		return slices.Contains(g.Manifests, protocol.ManifestName(c.Epoch))
	})
	return removed, nil
}
