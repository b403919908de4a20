package statebackend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
)

// Form says what the files of an image are. Its numbers are for good: docs/format/snapshot.md.
type Form uint8

const (
	// Records are files of sorted records, then files of changes to them: what any backend can
	// restore.
	Records Form = iota + 1
	// Tables are those of a Pebble database, which pebblestate alone can restore, and what is over it.
	Tables
)

// String returns the form's name.
func (f Form) String() string {
	switch f {
	case Records:
		return "records"
	case Tables:
		return "tables"
	}
	return fmt.Sprintf("form %d", uint8(f))
}

// File is a file of an image.
type File struct {
	// Name stands for the content for good: no other content has it, in whatever image, store or
	// process. It has letters, digits, "-", "_" and "." only.
	Name string
	// Size in bytes, and CRC-32C (Castagnoli), of all of it.
	Size   int64
	CRC32C uint32
	// FirstGroup and EndGroup bound the key groups [FirstGroup, EndGroup) of what is in it; both
	// are 0 where it has to be read by whoever restores any of the image.
	FirstGroup, EndGroup int
}

// Image is the state of a Store at one moment, to be written as files while the store goes on.
// It belongs to one goroutine, which need not be the store's owner, and is to be closed.
type Image interface {
	// Form tells what its files are.
	Form() Form
	// Write gives all files to put, in the order that Part.Files has to have. Content is to be read
	// before put returns; it is nil where the caller has said that it has the file. It waits until the
	// state is in files. An error of put ends it and is returned. May be called again.
	Write(ctx context.Context, put func(f File, content io.ReadSeeker) error) error
	// Close releases what the image pins.
	Close() error
}

// Part is what a store that is restored takes of an image.
type Part struct {
	Form Form
	// Files are all of the image, in order.
	Files []File
	// Open reads a file. It may be called several times, one after the other. That a file isn't there is an
	// error of class fault.Corruption; others say nothing against the image.
	Open func(ctx context.Context, f File) (io.ReadCloser, error)
	// From and To bound the keys to take: [From, To), nil is no end. The ranges of the parts of a store
	// don't overlap.
	From, To []byte
	// Update, if not nil, is what becomes of the records. It is for images of form Records, sorted by key.
	Update *Update
}

// ValidateParts says what is wrong with what to restore, as a fault.Invalid; as a
// fault.Unsupported if one is of none of the forms.
func ValidateParts(parts []Part, forms ...Form) error {
	sorted := slices.Clone(parts)
	slices.SortFunc(sorted, func(a, b Part) int { return bytes.Compare(a.From, b.From) })
	for i, p := range sorted {
		if p.Form != Records && p.Form != Tables {
			return fault.New(fault.Invalid, "statebackend: restoring an image of %v, which is unknown", p.Form)
		}
		if !slices.Contains(forms, p.Form) {
			return fault.New(fault.Unsupported, "statebackend: this state backend doesn't restore %v; take a savepoint, which any can restore, or use the backend that the state was of", p.Form)
		}
		if p.Update != nil && p.Form != Records {
			return fault.New(fault.Unsupported, "statebackend: names are changed in savepoints only, and these are %v", p.Form)
		}
		if p.To != nil && bytes.Compare(p.From, p.To) > 0 {
			return fault.New(fault.Invalid, "statebackend: restoring the keys from %x to %x", p.From, p.To)
		}
		if i > 0 && (sorted[i-1].To == nil || bytes.Compare(sorted[i-1].To, p.From) > 0) {
			return fault.New(fault.Invalid, "statebackend: restoring the keys from %x on twice", p.From)
		}
	}
	return nil
}

// Wants tells whether the part has to read a file, or whether none of its keys are in it.
func (p *Part) Wants(f File) bool {
	if f.EndGroup == 0 {
		return true
	}
	from, to := GroupRange(f.FirstGroup, f.EndGroup)
	return bytes.Compare(p.From, to) < 0 && (p.To == nil || bytes.Compare(from, p.To) < 0)
}

// Clip makes of a change what it is within the part's keys and after its update, and tells whether anything is left.
func (p *Part) Clip(c *Change) bool {
	if c.Kind != DeleteRange {
		keep := bytes.Compare(c.Key, p.From) >= 0 && (p.To == nil || bytes.Compare(c.Key, p.To) < 0)
		if keep && p.Update != nil {
			c.Key, keep = p.Update.apply(c.Key)
		}
		return keep
	}
	if bytes.Compare(c.Key, p.From) < 0 {
		c.Key = p.From
	}
	if p.To != nil && (c.Value == nil || bytes.Compare(c.Value, p.To) > 0) {
		c.Value = p.To
	}
	return c.Value == nil || bytes.Compare(c.Key, c.Value) < 0
}

// Read gives all of a file to read, and returns an error of class fault.Corruption unless its size and
// checksum are as they should be: what read has made of it is not to be used then. Read need
// not read to the end.
func (p *Part) Read(ctx context.Context, f File, read func(io.Reader) error) error {
	in, err := p.Open(ctx, f)
	if err != nil {
		return fmt.Errorf("statebackend: opening file %s: %w", f.Name, err)
	}
	c := &checked{ctx: ctx, in: in, file: f}
	err = read(c)
	if err == nil || fault.ClassOf(err) == fault.Corruption {
		_, rest := io.Copy(io.Discard, c) // what is wrong with the whole says more than what came of it
		err = errors.Join(rest, err)
	}
	return errors.Join(err, in.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checked is a file that is checked as it is read.
type checked struct {
	ctx  context.Context
	in   io.Reader
	file File
	size int64
	sum  uint32
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.in.Read(p)
	c.size += int64(n)
	c.sum = crc32.Update(c.sum, castagnoli, p[:n])
	switch f := &c.file; {
	case err != nil && err != io.EOF:
	case c.size > f.Size || err == io.EOF && c.size < f.Size:
		err = fault.New(fault.Corruption, "statebackend: file %s has %d bytes at least, not %d", f.Name, c.size, f.Size)
	case err == io.EOF && c.sum != f.CRC32C:
		err = fault.New(fault.Corruption, "statebackend: file %s has checksum %08x, not %08x: it is damaged", f.Name, c.sum, f.CRC32C)
	}
	return n, err
}

// loadBytes is about how much is committed at once when a store is restored.
const loadBytes = 1 << 20

// Load commits to a store what parts of form Records have.
func Load(ctx context.Context, s Store, parts []Part) error {
	var b Batch
	for i := range parts {
		p := &parts[i]
		for _, f := range p.Files {
			if !p.Wants(f) {
				continue
			}
			err := p.Read(ctx, f, func(r io.Reader) error {
				d, err := NewDecoder(r)
				if err != nil {
					return err
				}
				return LoadChanges(s, p, &b, d)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// LoadChanges commits to a store what a file has of a part, with b, which is to be empty, and is then.
func LoadChanges(s Store, p *Part, b *Batch, d *Decoder) error {
	for {
		c, err := d.Next()
		if err == nil && p.Clip(&c) {
			b.Add(c)
		}
		if err != nil && err != io.EOF {
			return err
		}
		if b.Bytes() >= loadBytes || err == io.EOF {
			if failed := s.Commit(b); failed != nil {
				return failed
			}
			b.Reset()
		}
		if err == io.EOF {
			return nil
		}
	}
}
