package pebblestate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// restoreDir is the folder, in that of a store, for what it is restored from.
const restoreDir = "restore"

// Restore implements statebackend.Backend. The largest image of tables becomes the database as it is, without
// the keys that are not wanted; others are copied into tables for it.
func (b *Backend) Restore(ctx context.Context, name string, parts []statebackend.Part) (statebackend.Store, error) {
	if err := statebackend.ValidateParts(parts, statebackend.Records, statebackend.Tables); err != nil {
		return nil, err
	}
	s, err := b.openWith(name, false, true, func(dir string, d *disk, memory memTables) (*Store, error) {
		r := restorer{ctx: ctx, disk: d, dir: dir, memory: memory, backend: b}
		s, err := r.restore(parts)
		if err != nil {
			return nil, d.wrap(err, "restoring")
		}
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

type restorer struct {
	ctx     context.Context
	backend *Backend
	disk    *disk
	dir     string // of the store
	memory  memTables
	store   *Store
	tables  int // written so far
}

func (r *restorer) restore(parts []statebackend.Part) (*Store, error) {
	base := largest(parts)
	known := map[string]statebackend.File{}
	if base >= 0 {
		var err error
		if known, err = r.fetch(&parts[base], r.dir); err != nil {
			return nil, err
		}
	}
	s, err := r.backend.openIn(r.dir, r.disk, r.memory)
	if err != nil {
		return nil, err
	}
	r.store = s
	s.imaging.known = known
	err = r.fill(parts, base)
	if err == nil {
		err = r.disk.failed()
	}
	if err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

// largest returns which of the parts is the largest image of tables, -1 if there is none.
func largest(parts []statebackend.Part) int {
	best, most := -1, int64(-1)
	for i, p := range parts {
		size := int64(0)
		for _, f := range p.Files {
			size += f.Size
		}
		if p.Form == statebackend.Tables && size > most {
			best, most = i, size
		}
	}
	return best
}

// fill puts into the database what the parts have, base being there.
func (r *restorer) fill(parts []statebackend.Part, base int) error {
	scratch := r.disk.PathJoin(r.dir, restoreDir)
	if base >= 0 {
		if err := r.excise(&parts[base]); err != nil {
			return err
		}
		if err := r.change(&parts[base], r.store); err != nil {
			return err
		}
	}
	for i := range parts {
		if i == base {
			continue
		}
		if err := r.disk.MkdirAll(scratch, 0o755); err != nil {
			return err
		}
		var err error
		if p := &parts[i]; p.Form == statebackend.Tables {
			err = r.copyTables(p, scratch)
		} else {
			err = r.copyRecords(p, scratch)
		}
		if err := cmp.Or(err, r.disk.RemoveAll(scratch)); err != nil {
			return err
		}
	}
	return nil
}

// fetch makes a folder of the files of an image, and returns the tables by their names in it.
func (r *restorer) fetch(p *statebackend.Part, dir string) (map[string]statebackend.File, error) {
	if err := r.disk.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	known := map[string]statebackend.File{}
	whole := false
	for _, f := range p.Files {
		if isChanges(f.Name) {
			continue
		}
		local := localName(f.Name)
		if isTable(local) && isFileName(local) {
			known[local] = f
			if err := p.Read(r.ctx, f, func(in io.Reader) error { return r.write(dir, local, in) }); err != nil {
				return nil, err
			}
			continue
		}
		err := p.Read(r.ctx, f, func(in io.Reader) error {
			content, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			records, err := decodeRecords(content)
			for _, o := range records {
				err = cmp.Or(err, r.write(dir, o.name, bytes.NewReader(o.content)))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		whole = true
	}
	if !whole {
		return nil, fault.New(fault.Corruption, "pebblestate: an image of %d tables without the other files of its database", len(known))
	}
	return known, nil
}

// write writes a file.
func (r *restorer) write(dir, name string, in io.Reader) error {
	out, err := r.disk.Create(r.disk.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return cmp.Or(err, out.Close())
}

// excise removes from the database what a part doesn't take, without reading it.
func (r *restorer) excise(p *statebackend.Part) error {
	db := r.store.db
	if first := []byte{0}; bytes.Compare(first, p.From) < 0 {
		if err := db.Excise(r.ctx, pebble.KeyRange{Start: first, End: p.From}); err != nil {
			return err
		}
	}
	if p.To == nil {
		return nil
	}
	iter, err := db.NewIter(within(p.To, nil))
	if err != nil {
		return err
	}
	var end []byte
	if iter.Last() {
		end = append(bytes.Clone(iter.Key()), 0)
	}
	if err := iter.Close(); err != nil || end == nil {
		return err
	}
	return db.Excise(r.ctx, pebble.KeyRange{Start: p.To, End: end})
}

// copyTables adds what a part takes of an image of tables.
func (r *restorer) copyTables(p *statebackend.Part, scratch string) error {
	dir := r.disk.PathJoin(scratch, "database")
	if _, err := r.fetch(p, dir); err != nil {
		return err
	}
	s, err := r.backend.openIn(dir, r.disk, r.memory)
	if err != nil {
		return err
	}
	err = r.change(p, s)
	w := tableWriter{restorer: r, dir: scratch}
	if err == nil {
		var failed error
		err = s.Scan(p.From, p.To, func(key, value []byte) bool {
			failed = w.set(key, value)
			return failed == nil
		})
		err = cmp.Or(err, failed)
	}
	return errors.Join(w.close(err), s.db.Close())
}

// isChanges tells the files of changes in an image of tables, which are to be made after the rest.
func isChanges(name string) bool { return !isTable(name) && !strings.HasSuffix(name, databaseSuffix) }

// change makes the changes of an image of tables in the store that has the rest of it.
func (r *restorer) change(p *statebackend.Part, s *Store) error {
	var b statebackend.Batch
	for _, f := range p.Files {
		if !isChanges(f.Name) {
			continue
		}
		err := p.Read(r.ctx, f, func(in io.Reader) error {
			d, err := statebackend.NewDecoder(in)
			if err != nil {
				return err
			}
			return statebackend.LoadChanges(s, p, &b, d)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// copyRecords adds what a part takes of an image of records.
func (r *restorer) copyRecords(p *statebackend.Part, scratch string) error {
	var b statebackend.Batch
	for _, f := range p.Files {
		if !p.Wants(f) {
			continue
		}
		err := p.Read(r.ctx, f, func(in io.Reader) error {
			d, err := statebackend.NewDecoder(in)
			if err != nil {
				return err
			}
			if !d.Sorted() {
				return statebackend.LoadChanges(r.store, p, &b, d)
			}
			w := tableWriter{restorer: r, dir: scratch}
			for {
				c, err := d.Next()
				if err == io.EOF {
					return w.close(nil)
				}
				if err == nil && p.Clip(&c) {
					err = w.set(c.Key, c.Value)
				}
				if err != nil {
					return w.close(err)
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tableBytes is about how large tables become that are written to be added.
const tableBytes = 64 << 20

// tableWriter adds records to the database, in the order of their keys, by tables.
type tableWriter struct {
	*restorer
	dir   string
	path  string
	table *sstable.Writer // nil if there is none yet
	bytes int
}

func (w *tableWriter) set(key, value []byte) error {
	if w.table == nil {
		w.tables++
		w.path = w.disk.PathJoin(w.dir, fmt.Sprintf("%d.sst", w.tables))
		out, err := w.disk.Create(w.path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		const lastLevel = 6 // where it goes
		w.table = sstable.NewWriter(objstorageprovider.NewFileWritable(out), w.store.opts.MakeWriterOptions(lastLevel, w.store.db.TableFormat()))
	}
	if err := w.table.Set(key, value); err != nil {
		return err
	}
	if w.bytes += len(key) + len(value); w.bytes < tableBytes {
		return nil
	}
	return w.add()
}

// add adds the table to the database.
func (w *tableWriter) add() error {
	err := w.table.Close()
	w.table, w.bytes = nil, 0
	return cmp.Or(err, w.disk.failed(), w.store.db.Ingest(w.ctx, []string{w.path}))
}

// close adds what is left, unless there has been an error, which it returns.
func (w *tableWriter) close(err error) error {
	switch {
	case w.table == nil:
		return err
	case err != nil:
		return errors.Join(err, w.table.Close())
	}
	return w.add()
}
