package worker

import (
	"fmt"
	"os"
	"sync"

	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
)

// spiller keeps frames in memory up to a budget and writes the rest to a file
// that has no name, so that nothing is left whatever happens. One owner stores;
// the stored frames may be loaded anywhere.
type spiller struct {
	dir    string
	budget int

	memory int
	file   *spillFile
}

type spillFile struct {
	f    *os.File
	size int64

	mu   sync.Mutex // protects refs
	refs int        // one of the spiller, one per stored frame
}

// store takes f, whose data must not be changed any more.
func (s *spiller) store(f frame.Frame) (exchange.Stored, error) {
	if s.memory+f.Bytes() <= s.budget {
		s.memory += f.Bytes()
		return inMemory{f}, nil
	}
	if s.file == nil {
		file, err := os.CreateTemp(s.dir, "spill-")
		if err != nil {
			return nil, fmt.Errorf("create a spill file: %w", err)
		}
		if err := os.Remove(file.Name()); err != nil {
			file.Close()
			return nil, fmt.Errorf("unlink the spill file: %w", err)
		}
		s.file = &spillFile{f: file, refs: 1}
	}
	if _, err := s.file.f.WriteAt(f.Data, s.file.size); err != nil {
		return nil, fmt.Errorf("spill %d bytes to %s: %w", f.Bytes(), s.dir, err)
	}
	s.file.ref(1)
	on := &onDisk{file: s.file, off: s.file.size, n: f.Bytes(), elements: f.Elements, min: f.MinTimestamp}
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

type inMemory struct{ f frame.Frame }

func (m inMemory) Bytes() int                 { return m.f.Bytes() }
func (m inMemory) Load() (frame.Frame, error) { return m.f, nil }

type onDisk struct {
	file     *spillFile
	off      int64
	n        int
	elements int
	min      int64
}

func (d *onDisk) Bytes() int { return d.n }

// Load reads the frame back; it may be called once.
func (d *onDisk) Load() (frame.Frame, error) {
	data := make([]byte, d.n)
	if _, err := d.file.f.ReadAt(data, d.off); err != nil {
		return frame.Frame{}, fmt.Errorf("read %d spilled bytes: %w", d.n, err)
	}
	d.drop()
	return frame.Frame{Data: data, Elements: d.elements, MinTimestamp: d.min}, nil
}

// drop gives up a stored frame that will not be loaded.
func (d *onDisk) drop() { d.file.ref(-1) }
