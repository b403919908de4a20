package worker

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/parts"
)

// spoolSnapshot is what a spool has at a barrier: the panes that not all have read, and the files that these are in,
// which don't change any more.
type spoolSnapshot struct {
	parts.Spool
	files []*spillFile
}

// snapshot pins the panes that not all have read. The file that was being filled is sealed: the panes to come go to another.
func (s *spool) snapshot() *spoolSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.ref(-1)
		s.file = nil
	}
	all := &spoolSnapshot{Spool: parts.Spool{Last: s.last}}
	for _, number := range slices.Sorted(maps.Keys(s.panes)) {
		p := s.panes[number]
		at := slices.Index(all.files, p.file)
		if at < 0 {
			at = len(all.files)
			all.files = append(all.files, p.file)
			p.file.ref(1)
		}
		all.Panes = append(all.Panes, parts.SpooledPane{Number: number, File: at, Pages: p.pages})
	}
	return all
}

// drop lets go of the files.
func (s *spoolSnapshot) drop() {
	for _, f := range s.files {
		f.ref(-1)
	}
	s.files = nil
}

// spool puts the files of a spool that the checkpoint before doesn't have. Their index is one of the small parts.
func (w *snapshotWriter) spool(ctx context.Context) error {
	if w.s.spool == nil {
		return nil
	}
	for _, f := range w.s.spool.files {
		file, held := w.s.held[f.name]
		if !held {
			var err error
			if file, err = w.put(ctx, f.size, io.NewSectionReader(f.f, 0, f.size)); err != nil {
				return err
			}
		}
		w.add(protocol.Part{Kind: protocol.Spool, Name: f.name}, file)
	}
	return nil
}

// spool brings back the panes that had not been read. Nobody counts as their reader yet.
func (r *restored) spool(ctx context.Context, s *spool) error {
	var files []*spillFile
	defer func() {
		for _, f := range files {
			f.ref(-1)
		}
	}()
	names := map[string]protocol.File{}
	for i := range r.Parts {
		p := &r.Parts[i]
		if p.Kind != protocol.Spool || p.Name == "" {
			continue
		}
		f := r.from.Manifest.Files[p.Span.File]
		copied, err := r.copyFile(ctx, f)
		if err != nil {
			return err
		}
		files = append(files, &spillFile{f: copied, size: f.Size, name: p.Name, refs: 1})
		names[p.Name] = f
	}
	r.keep(names)
	p := r.one(protocol.Spool)
	if p == nil {
		return nil
	}
	index, err := r.bytes(p)
	if err != nil {
		return err
	}
	was, err := parts.DecodeSpool(index)
	if err != nil || r.heir != nil { // of which there are no panes
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = was.Last
	for _, p := range was.Panes {
		if p.File >= len(files) || p.Pages[len(p.Pages)-1] > files[p.File].size {
			return r.corrupt("values of pane %d are beyond the end of a file", p.Number)
		}
		files[p.File].ref(1)
		s.panes[p.Number] = &spooledPane{file: files[p.File], pages: p.Pages}
	}
	return nil
}

// expect counts a reader of a pane before all tasks have restored, times over.
func (s *spool) expect(token []byte, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number, _ := s.find(token)
	if s.expected == nil {
		s.expected = map[uint64]int{}
	}
	s.expected[number] += times
}

// settle gives panes that were restored their readers, when all of these have been counted. What nobody reads
// was read between the moment of the task's snapshot and those of the readers.
func (s *spool) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, p := range s.panes {
		if p.readers = s.expected[number]; p.readers == 0 {
			delete(s.panes, number)
			p.file.ref(-1)
		}
	}
	s.expected = nil
}

// settleSpools does so for all, when all tasks have restored.
func (e *execution) settleSpools() {
	for i := range e.large {
		for _, s := range e.large[i].spools {
			s.settle()
		}
	}
}

// expectSpools counts the task of a stage, or several, as readers of what the elements of a frame name.
func (e *execution) expectSpools(edge *plan.Edge, f frame.Frame, times int) error {
	return eachToken(edge.Coder, f, func(token []byte) {
		if l, task, ok := e.largeOf(token); ok && l.spools != nil {
			l.spools[task].expect(token, times)
		}
	})
}

// expectInput counts an executable task as the reader of all panes that its input names.
func (x *execTask) expectInput(core *engine.Snapshot) error {
	if !x.spools {
		return nil
	}
	var frames []frame.Frame
	residuals := func(all []engine.PendingResidual) {
		for i := range all {
			frames = append(frames, all[i].Frame)
		}
	}
	for i := range core.Bundles {
		for j := range core.Bundles[i].Frames {
			frames = append(frames, core.Bundles[i].Frames[j].Frame)
		}
		residuals(core.Bundles[i].Rest)
	}
	for i := range core.Inbox {
		frames = append(frames, core.Inbox[i].Frame)
	}
	residuals(core.Residuals)
	for _, f := range frames {
		if err := x.e.expectSpools(x.stage.In[0], f, 1); err != nil {
			return err
		}
	}
	return nil
}

// expectMessage counts an executable task as the reader of what a message names that is parked.
func (x *execTask) expectMessage(m exchange.Message) error {
	if !x.spools || m.Kind != exchange.Data {
		return nil
	}
	return x.e.expectSpools(x.stage.In[0], m.Frame, 1)
}
