package checkpointingtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/internal/fault"
)

// Faults are what goes wrong with a store, each the share of calls that it happens to, from 0 to 1.
type Faults struct {
	// Unavailable calls fail, and nothing has happened (503).
	Unavailable float64
	// LostAck calls do what they should, and fail all the same.
	LostAck float64
	// Partial uploads read a part of their content and fail.
	Partial float64
	// Torn uploads leave half of the object and fail, as a file system may that isn't atomic.
	Torn float64
	// StaleList listings lack the newest half of what was created since the store was opened.
	StaleList float64
	// Latency of each call.
	Latency time.Duration
}

// Faulty is a store that fails by chance, the same way for the same seed and order of calls.
type Faulty struct {
	store checkpointing.Store

	mu      sync.Mutex // protects what follows
	faults  Faults
	random  *rand.Rand
	created []string
	calls   int
}

// ErrInjected is in all errors that a Faulty makes up. They are of class fault.Retryable.
var ErrInjected = errors.New("503 by chance")

// NewFaulty returns a store that does what s does, but for faults.
func NewFaulty(s checkpointing.Store, seed uint64, faults Faults) *Faulty {
	return &Faulty{store: s, faults: faults, random: rand.New(rand.NewPCG(seed, seed))}
}

// Set changes what goes wrong from now on.
func (f *Faulty) Set(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// Calls is how many there were.
func (f *Faulty) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// begin waits, and returns the faults and an error if the call is to fail.
func (f *Faulty) begin(ctx context.Context) (Faults, error) {
	f.mu.Lock()
	f.calls++
	faults := f.faults
	fail := f.happens(faults.Unavailable)
	f.mu.Unlock()
	if faults.Latency > 0 {
		select {
		case <-time.After(faults.Latency):
		case <-ctx.Done():
			return faults, ctx.Err()
		}
	}
	if fail {
		return faults, injected()
	}
	return faults, nil
}

func injected() error { return fault.New(fault.Retryable, "faulty store: %w", ErrInjected) }

// happens throws the dice. f.mu is held.
func (f *Faulty) happens(share float64) bool { return share > 0 && f.random.Float64() < share }

func (f *Faulty) chance(share float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.happens(share)
}

// Create is part of checkpointing.Store.
func (f *Faulty) Create(ctx context.Context, name string, content io.ReadSeeker) error {
	faults, err := f.begin(ctx)
	switch {
	case err != nil:
		return err
	case f.chance(faults.Partial):
		_, _ = io.CopyN(io.Discard, content, 1000)
		return injected()
	case f.chance(faults.Torn):
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		if err := f.store.Create(ctx, name, bytes.NewReader(data[:len(data)/2])); err != nil {
			return err
		}
		return injected()
	}
	if err := f.store.Create(ctx, name, content); err != nil {
		return err
	}
	f.mu.Lock()
	f.created = append(f.created, name)
	f.mu.Unlock()
	return f.ack(faults)
}

// ack is the end of a call that went well.
func (f *Faulty) ack(faults Faults) error {
	if f.chance(faults.LostAck) {
		return injected()
	}
	return nil
}

// Open is part of checkpointing.Store.
func (f *Faulty) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if _, err := f.begin(ctx); err != nil {
		return nil, err
	}
	return f.store.Open(ctx, name)
}

// Stat is part of checkpointing.Store.
func (f *Faulty) Stat(ctx context.Context, name string) (int64, error) {
	if _, err := f.begin(ctx); err != nil {
		return 0, err
	}
	return f.store.Stat(ctx, name)
}

// List is part of checkpointing.Store.
func (f *Faulty) List(ctx context.Context, prefix string, visit func(string, int64) error) error {
	faults, err := f.begin(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	missing := map[string]bool{}
	if f.happens(faults.StaleList) {
		for _, name := range f.created[len(f.created)/2:] {
			missing[name] = true
		}
	}
	f.mu.Unlock()
	return f.store.List(ctx, prefix, func(name string, size int64) error {
		if missing[name] {
			return nil
		}
		return visit(name, size)
	})
}

// Delete is part of checkpointing.Store.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	faults, err := f.begin(ctx)
	if err != nil {
		return err
	}
	if err := f.store.Delete(ctx, name); err != nil {
		return err
	}
	return f.ack(faults)
}
