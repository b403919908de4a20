package worker

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/lintelrun/lintel/internal/spillfile"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
)

// budget is memory that several may use at once. Safe for concurrent use; nil
// is a budget without end.
type budget struct {
	bytes   int64
	sharers *atomic.Int64 // how many budgets share the bytes just now
	used    atomic.Int64
}

func newBudget(bytes int64, sharers *atomic.Int64) *budget {
	return &budget{bytes: bytes, sharers: sharers}
}

// take reports whether there were n bytes left, which are the caller's then.
func (b *budget) take(n int) bool {
	if b == nil || b.used.Add(int64(n))*max(b.sharers.Load(), 1) <= b.bytes {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

func (b *budget) give(n int) {
	if b != nil {
		b.used.Add(-int64(n))
	}
}

// spiller keeps frames in memory as long as its budget has room and writes the
// rest to a file that has no name, so that nothing is left whatever happens. One
// owner stores; the stored frames may be loaded or dropped anywhere.
type spiller struct {
	dir    string
	budget *budget

	file *spillFile
}

// spiller returns one for what a task of the execution holds.
func (e *execution) spiller() spiller { return spiller{dir: e.dir, budget: e.staging} }

type spillFile struct {
	f    *os.File
	size int64
	name string // by which snapshots know it; only files of spools have one

	mu   sync.Mutex // protects refs
	refs int        // one of the spiller, one per stored frame
}

// store takes f, whose data must not be changed any more.
func (s *spiller) store(f frame.Frame) (exchange.Stored, error) {
	if s.budget.take(f.Bytes()) {
		return newBudgeted(f, s.budget), nil
	}
	if s.file == nil {
		file, err := spillfile.Create(s.dir)
		if err != nil {
			return nil, err
		}
		s.file = &spillFile{f: file, refs: 1}
	}
	if _, err := s.file.f.WriteAt(f.Data, s.file.size); err != nil {
		return nil, spillfile.Error(s.dir, "writing", err)
	}
	s.file.ref(1)
	on := &onDisk{file: s.file, off: s.file.size, n: f.Bytes(), frame: f}
	on.frame.Data = nil
	s.file.size += int64(f.Bytes())
	return on, nil
}

// spilled is the number of bytes on disk.
func (s *spiller) spilled() int64 {
	if s.file == nil {
		return 0
	}
	return s.file.size
}

// close ends the storing; stored frames stay loadable.
func (s *spiller) close() {
	if s.file != nil {
		s.file.ref(-1)
	}
}

func (f *spillFile) ref(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs += n; f.refs == 0 {
		f.f.Close() // It has no name: nothing can be lost.
	}
}

// inMemory is a frame that nobody accounts for.
type inMemory struct{ f frame.Frame }

func (m inMemory) Bytes() int                 { return m.f.Bytes() }
func (m inMemory) Load() (frame.Frame, error) { return m.f, nil }
func (m inMemory) Drop()                      {}
func (m inMemory) Share() exchange.Stored     { return m }

// budgeted is a frame in memory that belongs to a budget until all who share it have loaded
// or dropped it.
type budgeted struct {
	inMemory
	budget *budget
	users  atomic.Int32
}

func newBudgeted(f frame.Frame, b *budget) *budgeted {
	m := &budgeted{inMemory: inMemory{f}, budget: b}
	m.users.Store(1)
	return m
}

func (m *budgeted) Load() (frame.Frame, error) {
	m.Drop()
	return m.f, nil
}

func (m *budgeted) Drop() {
	if m.users.Add(-1) == 0 {
		m.budget.give(m.f.Bytes())
	}
}

func (m *budgeted) Share() exchange.Stored {
	m.users.Add(1)
	return m
}

type onDisk struct {
	file  *spillFile
	off   int64
	n     int
	frame frame.Frame // without its data
}

func (d *onDisk) Bytes() int { return d.n }

func (d *onDisk) Load() (frame.Frame, error) {
	data := make([]byte, d.n)
	if _, err := d.file.f.ReadAt(data, d.off); err != nil {
		return frame.Frame{}, fmt.Errorf("read %d spilled bytes: %w", d.n, err)
	}
	d.Drop()
	f := d.frame
	f.Data = data
	return f, nil
}

func (d *onDisk) Drop() { d.file.ref(-1) }

func (d *onDisk) Share() exchange.Stored {
	d.file.ref(1)
	return d
}
