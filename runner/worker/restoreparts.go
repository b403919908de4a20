package worker

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/spillfile"
	"github.com/lintelrun/lintel/runner/parts"
)

// The small parts of a snapshot are those that share a file. What waited for credit may be large nevertheless: their files are copied
// to the disk first, with their checksums, and the parts read from there, those of entries a piece at a time.

// read copies the files of the small parts.
func (r *restored) read(ctx context.Context) error {
	r.files = map[int]*os.File{}
	for i := range r.Parts {
		p := &r.Parts[i]
		if wholeFile(p) || r.files[p.Span.File] != nil {
			continue
		}
		copied, err := r.copyFile(ctx, r.from.Manifest.Files[p.Span.File])
		if err != nil {
			return err
		}
		r.files[p.Span.File] = copied
	}
	return nil
}

// copyFile copies a file of the checkpoint to one without a name. The caller closes it.
func (r *restored) copyFile(ctx context.Context, f protocol.File) (*os.File, error) {
	in, err := r.from.Open(ctx, f)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return spillfile.Copy(r.t.e.dir, in)
}

// close removes the copies. Nil has none.
func (r *restored) close() {
	if r == nil {
		return
	}
	for _, f := range r.files {
		f.Close() // It has no name: nothing can be lost.
	}
	clear(r.files)
}

// wholeFile tells whether a part is a file of its own.
func wholeFile(p *protocol.Part) bool {
	return p.Kind == protocol.State || p.Kind == protocol.Tables || p.Kind == protocol.Spool && p.Name != ""
}

// section is what a small part has. The manifest has been checked, and so has the file's size.
func (r *restored) section(p *protocol.Part) *io.SectionReader {
	return io.NewSectionReader(r.files[p.Span.File], p.Span.Offset, p.Span.Length)
}

// bytes of a small part, the caller's.
func (r *restored) bytes(p *protocol.Part) ([]byte, error) {
	b := make([]byte, p.Span.Length)
	if _, err := io.ReadFull(r.section(p), b); err != nil {
		return nil, fmt.Errorf("reading a part of %d bytes: %w", len(b), err)
	}
	return b, nil
}

// entries yields the entries of a small part.
func (r *restored) entries(p *protocol.Part) iter.Seq2[parts.Entry, error] {
	return parts.Entries(r.section(p), p.Span.Length)
}

// each yields the small parts of a kind.
func (r *restored) each(kind protocol.PartKind) iter.Seq[*protocol.Part] {
	return func(yield func(*protocol.Part) bool) {
		if r == nil {
			return
		}
		for i := range r.Parts {
			if p := &r.Parts[i]; p.Kind == kind && !wholeFile(p) && !yield(p) {
				return
			}
		}
	}
}

// one returns the part of a kind of which there is one at most, nil if there is none.
func (r *restored) one(kind protocol.PartKind) *protocol.Part {
	for p := range r.each(kind) {
		return p
	}
	return nil
}
