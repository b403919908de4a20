package statebackend

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/lintelrun/lintel/internal/fault"
)

// Chain makes images for stores: a whole one first, then such that have the files of the one before and
// a file of what has changed since, as long as that is little. So what is to be put follows the changes, and
// most images cost next to nothing to take. The zero value is ready. Its methods belong to the store's
// owner.
type Chain struct {
	log      *changeLog // since the last image; nil if the next has to be whole
	segments []*segment // the files of the last image, if log is not nil
	form     Form       // of the last whole image
	limit    int64      // of all changes since the last whole image, in bytes
	open     atomic.Int64
}

// mostSegments is how many images one after the other may depend on the first.
const mostSegments = 100

// segment is files that images share.
type segment struct {
	name  string
	whole Image      // either, until it is closed
	log   *changeLog // or

	mu    sync.Mutex
	files []File // once they have been put, under mu
}

// put returns the files if they have been put.
func (g *segment) put() []File {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.files
}

// Add notes what is committed, for the next image.
func (c *Chain) Add(b *Batch) {
	if c.log == nil {
		return
	}
	if c.log.add(b); c.log.bytes > c.limit {
		c.log, c.segments = nil, nil
	}
}

// Bytes returns how much memory is taken by what is kept for the next image.
func (c *Chain) Bytes() int64 {
	if c.log == nil {
		return 0
	}
	return c.log.bytes
}

// Open returns how many images have not been closed.
func (c *Chain) Open() int { return int(c.open.Load()) }

// follows tells whether the next image can consist of files that are held and of the log.
func (c *Chain) follows(held func(name string) bool) bool {
	if c.log == nil || held == nil || len(c.segments) >= mostSegments {
		return false
	}
	changed := c.log.bytes
	for i, g := range c.segments {
		files := g.put()
		for _, f := range files {
			if !held(f.Name) {
				return false
			}
			if i > 0 {
				changed += f.Size
			}
		}
		if len(files) == 0 {
			return false
		}
	}
	return changed <= c.limit
}

// Image is what Store.Image returns. Whole takes an image that depends on no changes; limit is how many bytes of
// changes may follow it until there is another whole one. They take as much memory.
func (c *Chain) Image(held func(name string) bool, limit int64, whole func() (Image, error)) (Image, error) {
	m := &chainImage{chain: c, form: c.form}
	if c.follows(held) {
		m.old = c.segments
		if c.log.bytes > 0 {
			m.fresh = &segment{name: NewFileID(), log: c.log}
			c.segments = append(c.segments[:len(c.segments):len(c.segments)], m.fresh)
			c.log = new(changeLog)
		}
		c.open.Add(1)
		return m, nil
	}
	c.log, c.segments = nil, nil
	all, err := whole()
	if err != nil {
		return nil, err
	}
	m.fresh = &segment{whole: all}
	m.form, c.form = all.Form(), all.Form()
	if c.limit = limit; limit > 0 {
		c.segments, c.log = []*segment{m.fresh}, new(changeLog)
	}
	c.open.Add(1)
	return m, nil
}

type chainImage struct {
	chain  *Chain
	form   Form
	old    []*segment // which the caller holds
	fresh  *segment   // nil if nothing has changed
	closed atomic.Bool
}

// Form implements Image.
func (m *chainImage) Form() Form { return m.form }

// Write implements Image.
func (m *chainImage) Write(ctx context.Context, put func(File, io.ReadSeeker) error) error {
	if m.closed.Load() {
		return errImageClosed()
	}
	for _, g := range m.old {
		for _, f := range g.put() {
			if err := put(f, nil); err != nil {
				return err
			}
		}
	}
	if m.fresh == nil {
		return nil
	}
	return m.fresh.write(ctx, put)
}

func (g *segment) write(ctx context.Context, put func(File, io.ReadSeeker) error) error {
	var files []File
	note := func(f File, content io.ReadSeeker) error {
		files = append(files, f)
		return put(f, content)
	}
	var err error
	if g.whole != nil {
		err = g.whole.Write(ctx, note)
	} else {
		f, content := g.log.file(g.name)
		err = note(f, bytes.NewReader(content))
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.files = files
	return nil
}

// Close implements Image.
func (m *chainImage) Close() error {
	if m.closed.Swap(true) {
		return errImageClosed()
	}
	defer m.chain.open.Add(-1)
	if m.fresh == nil {
		return nil
	}
	whole := m.fresh.whole
	m.fresh.whole, m.fresh.log = nil, nil // the chain keeps the segment
	if whole == nil {
		return nil
	}
	return whole.Close()
}

func errImageClosed() error {
	return fault.New(fault.Invalid, "statebackend: the image has been closed")
}

// changeLog is changes, as files have them.
type changeLog struct {
	blocks [][]byte // raw
	bytes  int64    // of memory that it takes
}

func (l *changeLog) add(b *Batch) {
	for c := range b.All() {
		last := len(l.blocks) - 1
		if last < 0 || len(l.blocks[last]) >= blockBytes {
			l.blocks = append(l.blocks, nil)
			last++
		}
		before := cap(l.blocks[last])
		l.blocks[last] = appendChange(l.blocks[last], &c)
		l.bytes += int64(cap(l.blocks[last]) - before)
	}
}

// file makes a file of all changes.
func (l *changeLog) file(name string) (File, []byte) {
	e := newFileEncoder(fileChanges)
	for _, b := range l.blocks {
		e.block(b)
	}
	content := e.end()
	return fileOf(name+".changes", content), content
}
