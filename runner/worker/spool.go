package worker

import (
	"encoding/binary"
	"iter"
	"math"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/spillfile"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/statebackend"
)

// spool keeps the values of the large panes that a task has fired, on disk, for the bundles that
// read them and for those that try again, until a bundle of each reader has committed.
// One goroutine puts; the rest is safe for concurrent use.
type spool struct {
	dir     string
	prefix  []byte // of tokens
	readers int    // stages that read each pane
	wrote   func(bytes int64)

	mu    sync.Mutex
	panes map[uint64]*spooledPane // by number; nil once closed. Under mu.
	last  uint64                  // number
	file  *spillFile              // of the panes to come
	// expected counts the readers of panes that are restored. Under mu.
	expected map[uint64]int
}

// spooledPane is a pane in a file.
type spooledPane struct {
	file    *spillFile
	pages   []int64 // where each begins, and the end
	readers int     // that have not committed
}

// spoolFileBytes is how large a file grows: its room is free again when all that is in it was read.
const spoolFileBytes = 64 << 20

// put takes the values of a pane (panes.SpoolFunc).
func (s *spool) put(pages iter.Seq2[[]byte, error]) (token []byte, err error) {
	file, err := s.room()
	if err != nil {
		return nil, err
	}
	begin := file.size
	p := &spooledPane{file: file, pages: []int64{begin}, readers: s.readers}
	for page, err := range pages {
		if err != nil {
			return nil, err
		}
		if from := p.pages[len(p.pages)-1]; file.size > from && file.size+int64(len(page)) > from+pageBytes {
			p.pages = append(p.pages, file.size)
		}
		if _, err := file.f.WriteAt(page, file.size); err != nil {
			return nil, spillfile.Error(s.dir, "writing", err)
		}
		file.size += int64(len(page))
	}
	p.pages = append(p.pages, file.size)
	s.wrote(file.size - begin)
	file.ref(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.panes[s.last] = p
	return binary.AppendUvarint(s.prefix[:len(s.prefix):len(s.prefix)], s.last), nil
}

// room returns the file for the next pane.
func (s *spool) room() (*spillFile, error) {
	if s.file != nil && s.file.size >= spoolFileBytes {
		s.file.ref(-1)
		s.file = nil
	}
	if s.file == nil {
		f, err := spillfile.Create(s.dir)
		if err != nil {
			return nil, err
		}
		s.file = &spillFile{f: f, refs: 1, name: statebackend.NewFileID()}
	}
	return s.file, nil
}

// find returns the pane that a token stands for, nil if there is none.
func (s *spool) find(token []byte) (uint64, *spooledPane) {
	number, n := binary.Uvarint(token[min(len(s.prefix), len(token)):])
	if n <= 0 || len(s.prefix)+n != len(token) {
		return 0, nil
	}
	return number, s.panes[number]
}

// read returns a page of the values behind a token of this spool, and the continuation that the
// next is asked for with.
func (s *spool) read(token, continuation []byte) (data, next []byte, err error) {
	s.mu.Lock()
	_, p := s.find(token)
	s.mu.Unlock()
	page := uint64(0)
	if len(continuation) > 0 {
		var n int
		if page, n = binary.Uvarint(continuation); n != len(continuation) {
			p = nil
		}
	}
	if p == nil || page >= uint64(len(p.pages)-1) {
		return nil, nil, fault.New(fault.Invalid, "%.64x, continued by %.32x, is no token of a pane's values, or they were read before", token, continuation)
	}
	data = make([]byte, p.pages[page+1]-p.pages[page])
	if _, err := p.file.f.ReadAt(data, p.pages[page]); err != nil {
		return nil, nil, spillfile.Error(s.dir, "reading", err)
	}
	if page++; page < uint64(len(p.pages)-1) {
		next = binary.AppendUvarint(nil, page)
	}
	return data, next, nil
}

// release notes that one reader of a pane has committed.
func (s *spool) release(token []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number, p := s.find(token)
	if p == nil {
		return
	}
	if p.readers--; p.readers == 0 {
		delete(s.panes, number)
		p.file.ref(-1)
	}
}

// close frees all, when the task has ended and nobody reads any more.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.panes {
		p.file.ref(-1)
	}
	s.panes = nil
	if s.file != nil {
		s.file.ref(-1)
		s.file = nil
	}
}

// spool is where the task puts the values of large panes; nil where these leave whole.
func (t *task) spool() *spool {
	if spools := t.e.large[t.stage.Index].spools; spools != nil {
		return spools[t.index]
	}
	return nil
}

// newSpools returns one for each task of a stage whose panes may be state-backed.
func (e *execution) newSpools(s *plan.Stage) []*spool {
	all := make([]*spool, e.parallelism(s))
	for i := range all {
		all[i] = &spool{
			dir: e.dir, prefix: largePrefix(s.Index, i), readers: len(s.Out), wrote: e.cfg.Hooks.Spilled,
			panes: map[uint64]*spooledPane{},
		}
	}
	return all
}

// readsSpools tells whether the input of a stage may have panes in spools.
func (e *execution) readsSpools(s *plan.Stage) bool {
	for _, in := range s.In {
		if in.Kind != plan.Broadcast && e.large[in.From.Index].spools != nil {
			return true
		}
	}
	return false
}

// releaseSpools notes that a bundle with this input has committed.
func (x *execTask) releaseSpools(input []frame.Frame) error {
	for _, f := range input {
		err := eachToken(x.stage.In[0].Coder, f, func(token []byte) {
			if l, task, ok := x.e.largeOf(token); ok && l.spools != nil {
				l.spools[task].release(token)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachToken visits the tokens that the elements of a frame have instead of values.
func eachToken(coder *coders.Windowed, f frame.Frame, visit func(token []byte)) error {
	var el coders.Element
	for off := 0; off < len(f.Data); off += el.Size {
		if err := coder.Next(f.Data[off:], &el); err != nil {
			return err
		}
		if token, ok := tokenIn(el.Value); ok {
			visit(token)
		}
	}
	return nil
}

// tokenIn returns the token of an encoded iterable whose values are all behind one.
func tokenIn(iterable []byte) ([]byte, bool) {
	if len(iterable) < 4 || binary.BigEndian.Uint32(iterable) != math.MaxUint32 {
		return nil, false
	}
	mark, n := binary.Uvarint(iterable[4:])
	if n <= 0 || mark != math.MaxUint64 {
		return nil, false
	}
	rest := iterable[4+n:]
	size, n := binary.Uvarint(rest)
	if n <= 0 || size != uint64(len(rest)-n) {
		return nil, false
	}
	return rest[n:], true
}
