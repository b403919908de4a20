package sideinput

import (
	"errors"
	"math"
	"slices"
	"sort"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/invariant"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// Live is a side input whose contents change: what a window has is its latest pane, in a View
// of its own. Who reads pins a version of the whole, and sees that one until it lets go of it,
// whatever comes in the meantime. Safe for concurrent use.
type Live struct {
	cfg     Config
	panes   *coders.Windowed
	windows *windowing.Strategy
	empty   *View

	mu        sync.Mutex // protects what follows
	current   map[string]*version
	byEnd     []*version        // the current ones, by end
	old       []*version        // replaced or expired, and pinned
	pins      map[uint64]int    // how many see the contents as of a change
	changes   uint64            // so far
	watermark int64             // of the input
	readers   map[*Reader]int64 // up to which end each needs no window any more
	expired   int64             // the least of these: windows that end before are gone
	bytes     int64             // of all views in memory
	spilled   int64             // that ever went to disk
}

// version is what a window had from one change until another.
type version struct {
	window   string
	end      int64 // maximum timestamp of the window
	from, to uint64
	view     *View
	inMemory int64
}

const forever = math.MaxUint64

// small views stay in memory: a file for each would be the greater load.
const small = 4 << 10

// NewLive returns a Live without contents, at the beginning of time. Panes is the layout of
// panes, KV<bytes, iterable<E>> for elements of cfg.Input in windows of w. The memory of cfg is
// for all windows together.
func NewLive(cfg Config, panes *coders.Windowed, w *windowing.Strategy) (*Live, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if panes == nil || !panes.Keyed() || w == nil {
		return nil, fault.New(fault.Invalid, "side input: panes without a KV layout or windowing strategy")
	}
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = spillmap.DefaultMemory
	}
	empty, err := buildPane(cfg, nil, nil)
	if err != nil {
		return nil, err
	}
	return &Live{
		cfg: cfg, panes: panes, windows: w, empty: empty,
		current: map[string]*version{}, pins: map[uint64]int{}, readers: map[*Reader]int64{},
		watermark: coders.MinTimestamp, expired: coders.MinTimestamp,
	}, nil
}

// Replace takes a block of whole encoded panes, which it does not retain. Each is what its
// windows have from now on. Panes of windows that have expired are dropped.
func (l *Live) Replace(block []byte) error {
	var e coders.Element
	for rest := block; len(rest) > 0; rest = rest[e.Size:] {
		if err := l.panes.Next(rest, &e); err != nil {
			return cutError(err, len(block)-len(rest))
		}
		values, err := l.join(e.Value)
		if err != nil {
			return err
		}
		windows := e.Windows
		for range e.NumWindows {
			n, err := l.panes.Window().Skip(windows)
			if err != nil {
				return cutError(err, 0)
			}
			if err := l.replace(windows[:n], values); err != nil {
				return err
			}
			windows = windows[n:]
		}
	}
	return nil
}

func (l *Live) replace(window, values []byte) error {
	end, err := l.windows.MaxTimestamp(window)
	if err != nil {
		return err
	}
	cfg := l.cfg
	l.mu.Lock()
	cfg.MemoryBytes = max(cfg.MemoryBytes-l.bytes, small)
	gone := end < l.expired
	l.mu.Unlock()
	if gone {
		return nil
	}
	view, err := buildPane(cfg, window, values)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	v := &version{window: string(window), end: end, from: l.changes, to: forever, view: view, inMemory: view.inMemory()}
	l.bytes += v.inMemory
	l.spilled += view.Stats().OnDisk
	at := sort.Search(len(l.byEnd), func(i int) bool { return l.byEnd[i].end >= end })
	if before := l.current[v.window]; before != nil {
		l.retire(before)
		l.byEnd[at+slices.Index(l.byEnd[at:], before)] = v
	} else {
		l.byEnd = slices.Insert(l.byEnd, at, v)
	}
	l.current[v.window] = v
	return l.sweep()
}

// Advance notes the watermark (ms) of the input, all of whose panes so far have been given to
// Replace. It never goes back.
func (l *Live) Advance(watermark int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watermark = max(l.watermark, watermark)
}

// State is what a reader can expect of a window.
type State int

// States of a window, in the order in which it takes them.
const (
	// Waiting: no pane of it has come, and one may come.
	Waiting State = iota
	// Ready: it has a pane, or the watermark says that it is empty.
	Ready
	// Expired: it is gone.
	Expired
)

// State tells whether a window may be read.
func (l *Live) State(window []byte) (State, error) {
	end, err := l.windows.MaxTimestamp(window)
	if err != nil {
		return Waiting, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case end < l.expired:
		return Expired, nil
	case l.current[string(window)] != nil, l.watermark > l.windows.FiredBy(end), l.watermark >= coders.MaxTimestamp:
		return Ready, nil
	}
	return Waiting, nil
}

// Reader is one of those by whose progress windows expire.
type Reader struct{ live *Live }

// NewReader adds a reader, which needs all windows so far. Readers are added before there
// are panes.
func (l *Live) NewReader() *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	invariant.Check(l.expired == coders.MinTimestamp, "a reader comes after windows have expired")
	r := &Reader{l}
	l.readers[r] = coders.MinTimestamp
	return r
}

// Release says that the reader won't ask for windows any more whose maximum timestamp (ms) is
// before until. Windows that no reader asks for go.
func (r *Reader) Release(until int64) error {
	l := r.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if until <= l.readers[r] {
		return nil
	}
	l.readers[r] = until
	least := until
	for _, u := range l.readers {
		least = min(least, u)
	}
	l.expired = max(l.expired, least)
	n := 0
	for n < len(l.byEnd) && l.byEnd[n].end < l.expired {
		delete(l.current, l.byEnd[n].window)
		l.retire(l.byEnd[n])
		n++
	}
	if n == 0 {
		return nil
	}
	l.byEnd = slices.Delete(l.byEnd, 0, n)
	return l.sweep()
}

// retire ends what a version is current for. Those who pinned the contents before may still see it.
func (l *Live) retire(v *version) {
	v.to = l.changes
	if l.current[v.window] == nil {
		v.to++ // expired, which is no change that anyone sees
	}
	l.old = append(l.old, v)
}

// sweep frees the old versions that nobody sees.
func (l *Live) sweep() error {
	var errs []error
	l.old = slices.DeleteFunc(l.old, func(v *version) bool {
		for seen := range l.pins {
			if v.from <= seen && seen < v.to {
				return false
			}
		}
		errs = append(errs, v.view.Close())
		l.bytes -= v.inMemory
		return true
	})
	return errors.Join(errs...)
}

// Pin is the contents at one time. It belongs to one bundle; its methods are for concurrent
// use, but none for use with or after Close.
type Pin struct {
	live *Live
	seen uint64
}

// Pin pins the present contents. The caller closes it.
func (l *Live) Pin() *Pin {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pins[l.changes]++
	return &Pin{l, l.changes}
}

// Version numbers the contents: two pins of a number see the same.
func (p *Pin) Version() uint64 { return p.seen }

// View returns what a window has: nothing if no pane has come. It says nothing about windows
// that had expired before.
func (p *Pin) View(window []byte) *View {
	l := p.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.current[string(window)]; v != nil && v.from <= p.seen {
		return v.view
	}
	for _, v := range l.old {
		if v.window == string(window) && v.from <= p.seen && p.seen < v.to {
			return v.view
		}
	}
	return l.empty
}

// Close lets go of the contents.
func (p *Pin) Close() error {
	l := p.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pins[p.seen]--; l.pins[p.seen] > 0 {
		return nil
	}
	delete(l.pins, p.seen)
	return l.sweep()
}

// SpilledBytes is how many bytes of panes went to disk so far.
func (l *Live) SpilledBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spilled
}

// Close frees memory and files. No look-up may be under way or follow. It may be called again.
func (l *Live) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := []error{l.empty.Close()}
	for _, v := range slices.Concat(l.byEnd, l.old) {
		errs = append(errs, v.view.Close())
	}
	return errors.Join(errs...)
}
