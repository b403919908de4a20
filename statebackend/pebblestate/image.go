package pebblestate

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// A whole image of a store is its tables at the moment when the memory table of that moment has become one.
// In the background a new memory table is begun, the old one is written, and all tables
// are linked into a folder of the image's own, from where they are read without haste, whatever the database
// does to its own. The owner goes on: only its commits wait for the new memory table, which takes a while where the disk
// has work waiting, as they would wait for the disk then anyway. No commit since may be in a table before they are linked: so commits wait
// too when they might fill the new memory table, as Pebble has them wait soon after that anyway.
//
// That makes a table for each, however small, and small tables cost the merging of large ones, which are then
// to be written elsewhere again. So images between have the changes since a whole one (statebackend.Chain):
// there is a whole one about as often as a memory table is full anyway.

// imagesDir is the folder for images in that of a store.
const imagesDir = "images"

// entryBytes is more than an entry takes in a memory table besides its key and value: a node of a skip list.
const entryBytes = 256

// imaging is what a store knows of its images.
type imaging struct {
	chain   statebackend.Chain
	name    string   // of this store as it is open now; those of its files begin with it
	count   int      // of whole images so far
	linking *linking // the newest; nil if it is known to have ended. The owner's
	grown   bool     // each new memory table is as large as they get. The newest linking's, until it has begun

	mu    sync.Mutex
	known map[string]statebackend.File // tables by their names in the folder, under mu
}

func newImaging() imaging {
	return imaging{name: statebackend.NewFileID(), known: map[string]statebackend.File{}}
}

// linking is the making of an image. It ends before the image is closed, or by that.
type linking struct {
	begun  chan struct{} // a new memory table has, or there will be none
	done   chan struct{}
	err    error         // once done
	closed chan struct{} // nobody wants it any more
	room   int64         // once begun: bytes that may be committed before it is done, without any of it being in a table
}

// admit waits until a commit of so many bytes may be made.
func (m *imaging) admit(bytes int64) {
	l := m.linking
	if l == nil {
		return
	}
	<-l.begun
	if l.room -= bytes; l.room < 0 {
		<-l.done
	}
	select {
	case <-l.done:
		m.linking = nil
	default:
	}
}

// leastChanges is how many bytes of changes may at least follow a whole image, for stores with small memory tables.
const leastChanges = 256 << 10

// Image implements statebackend.Store.
func (s *Store) Image(held func(name string) bool) (statebackend.Image, error) {
	if s.closed.Load() {
		return nil, errClosed("store")
	}
	if err := s.disk.failed(); err != nil {
		return nil, err
	}
	limit := max(leastChanges, int64(s.opts.MemTableSize)/2)
	return s.imaging.chain.Image(held, limit, func() (statebackend.Image, error) { return s.image(held) })
}

// image takes a whole image, without waiting for anything.
func (s *Store) image(held func(name string) bool) (statebackend.Image, error) {
	m := &s.imaging
	before := m.linking
	m.linking = &linking{begun: make(chan struct{}), done: make(chan struct{}), closed: make(chan struct{})}
	m.count++
	i := &image{
		store: s, held: held, linking: m.linking, number: m.count,
		dir: s.disk.PathJoin(s.dir, imagesDir, fmt.Sprint(m.count)),
	}
	go i.link(before)
	return i, nil
}

// link links the tables, after those of the image before.
func (i *image) link(before *linking) {
	l, s := i.linking, i.store
	defer close(l.done)
	if before != nil {
		<-before.done
	}
	flushed, table, err := s.beginTable()
	l.room = table / 8 * 3 // less than half of it: batches of about half are tables of their own
	close(l.begun)
	if err != nil {
		l.err = s.disk.wrap(err, "taking an image of")
		return
	}
	select {
	case <-flushed:
		l.err = s.disk.wrap(cmp.Or(s.db.Checkpoint(i.dir), s.disk.failed()), "taking an image of")
	case <-l.closed:
	}
}

// beginTable begins a new memory table, and returns its size, or less, and what is closed once the old ones are in files.
func (s *Store) beginTable() (flushed <-chan struct{}, bytes int64, err error) {
	full := int64(s.opts.MemTableSize)
	if s.imaging.grown { // metrics wait for the disk while tables become part of the database
		flushed, err = s.db.AsyncFlush()
		return flushed, full, err
	}
	before := s.db.Metrics().MemTable.Size
	if flushed, err = s.db.AsyncFlush(); err != nil {
		return nil, 0, err
	}
	// What has come to them is the new memory table, or less if another has been written meanwhile.
	bytes = max(0, int64(s.db.Metrics().MemTable.Size)-int64(before))
	s.imaging.grown = bytes >= full
	return flushed, bytes, nil
}

type image struct {
	store   *Store
	held    func(string) bool
	linking *linking
	number  int
	dir     string
}

// Form implements statebackend.Image.
func (i *image) Form() statebackend.Form { return statebackend.Tables }

// Close implements statebackend.Image.
func (i *image) Close() error {
	close(i.linking.closed)
	<-i.linking.done
	return i.store.disk.wrap(i.store.backend.fs.RemoveAll(i.dir), "removing an image of")
}

// Write implements statebackend.Image: tables, then one file of all others.
func (i *image) Write(ctx context.Context, put func(statebackend.File, io.ReadSeeker) error) error {
	select {
	case <-i.linking.done:
	case <-ctx.Done():
		return fmt.Errorf("pebblestate: waiting for an image of store %q: %w", i.store.disk.store, ctx.Err())
	}
	if i.linking.err != nil {
		return i.linking.err
	}
	s := i.store
	names, err := s.disk.List(i.dir)
	if err != nil {
		return s.disk.wrap(err, "reading an image of")
	}
	slices.Sort(names)
	s.imaging.forget(names)
	var others []record
	for _, name := range names {
		path := s.disk.PathJoin(i.dir, name)
		if !isTable(name) {
			content, err := readFile(s.disk, path)
			if err != nil {
				return s.disk.wrap(err, "reading an image of")
			}
			others = append(others, record{name, content})
			continue
		}
		if err := i.table(ctx, name, path, put); err != nil {
			return err
		}
	}
	content := encodeRecords(others)
	f := statebackend.File{
		Name: fmt.Sprintf("%s-%d%s", s.imaging.name, i.number, databaseSuffix),
		Size: int64(len(content)), CRC32C: crc32.Checksum(content, castagnoli),
	}
	return put(f, strings.NewReader(string(content)))
}

// table puts a table.
func (i *image) table(ctx context.Context, name, path string, put func(statebackend.File, io.ReadSeeker) error) error {
	s := i.store
	in := &lazyFile{fs: s.disk, path: path}
	defer in.close()
	f, err := s.imaging.identify(ctx, name, in)
	if err != nil {
		return s.disk.wrap(err, "reading an image of")
	}
	if i.held != nil && i.held(f.Name) {
		return put(f, nil)
	}
	in.at = 0
	return put(f, in)
}

// identify says what a table is called outside, and sums it the first time.
func (m *imaging) identify(ctx context.Context, name string, in *lazyFile) (statebackend.File, error) {
	m.mu.Lock()
	f, ok := m.known[name]
	m.mu.Unlock()
	if ok {
		return f, nil
	}
	sum := crc32.New(castagnoli)
	size, err := io.Copy(sum, in)
	if err != nil {
		return f, err
	}
	f = statebackend.File{Name: m.name + "-" + name, Size: size, CRC32C: sum.Sum32()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[name] = f
	return f, ctx.Err()
}

// forget forgets tables that are in none of the names, which are sorted.
func (m *imaging) forget(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.known {
		if _, ok := slices.BinarySearch(names, name); !ok {
			delete(m.known, name)
		}
	}
}

// databaseSuffix ends the name of the file that has all of a database but its tables.
const databaseSuffix = ".database"

// isTable tells tables from the other files of a database.
func isTable(name string) bool { return strings.HasSuffix(name, ".sst") }

// localName returns the name of a table in a database's folder, of that outside.
func localName(name string) string { return name[strings.LastIndexByte(name, '-')+1:] }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// lazyFile is a file that is opened by the first to read it.
type lazyFile struct {
	fs   vfs.FS
	path string
	file vfs.File // nil until then
	size int64
	at   int64
}

func (l *lazyFile) open() error {
	if l.file != nil {
		return nil
	}
	f, err := l.fs.Open(l.path, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return cmp.Or(err, f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Read implements io.Reader.
func (l *lazyFile) Read(p []byte) (int, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	if l.at >= l.size {
		return 0, io.EOF
	}
	n, err := l.file.ReadAt(p[:min(int64(len(p)), l.size-l.at)], l.at)
	l.at += int64(n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// Seek implements io.Seeker.
func (l *lazyFile) Seek(offset int64, whence int) (int64, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekCurrent:
		offset += l.at
	case io.SeekEnd:
		offset += l.size
	}
	if offset < 0 {
		return 0, fault.New(fault.Internal, "pebblestate: seeking before the beginning of %s", l.path)
	}
	l.at = offset
	return offset, nil
}

func (l *lazyFile) close() {
	if l.file != nil {
		_ = l.file.Close() // which was only read
	}
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	l := &lazyFile{fs: fs, path: path}
	defer l.close()
	return io.ReadAll(l)
}
