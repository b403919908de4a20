package protocol

import (
	"cmp"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
)

// Checkpoint is a manifest that counts, as far as garbage collection has to know it.
type Checkpoint struct {
	Epoch, Generation uint64
	Files             []File
}

// Checkpoint returns what garbage collection has to know of the manifest.
func (m *Manifest) Checkpoint() Checkpoint {
	return Checkpoint{Epoch: m.Epoch, Generation: m.Generation, Files: m.Files}
}

// Holdings is what a generation knows when it looks for garbage.
type Holdings struct {
	Generation uint64
	// Listed objects of the job. All else was looked at after the listing, so that an epoch whose
	// files it has is under way, has ended or is complete by then. What it lacks is not removed.
	Listed []Object
	// Complete are the checkpoints that count. One whose manifest is listed and that is not here is
	// damaged or orphaned; it is kept unless Orphaned has it.
	Complete []Checkpoint
	// Orphaned are epochs whose manifests don't count.
	Orphaned []uint64
	// Retain is how many of the newest to keep, 1 at least.
	Retain int
	// UnderWay are epochs that were begun and have not ended. Their files are not named yet, and
	// they may name files of checkpoints that were complete when they began.
	UnderWay []UnderWay
}

// UnderWay is an epoch that was begun and has not ended.
type UnderWay struct {
	Epoch uint64
	// Over is the epoch whose files its snapshots may name; 0 for none.
	Over uint64
}

// Garbage is what to remove: all of the first before any of the second. Should the removal
// break off, no manifest is left that names what is gone.
type Garbage struct {
	Manifests []string
	Others    []string
}

// Collect decides what to remove. It never returns what a retained checkpoint names, what is of an
// epoch under way or later, or what a newer generation made, and leaves foreign objects alone. Claims of
// generations stay for good: they are small, and no number may be given twice. It
// returns a fault.Fenced if there is a newer generation.
func Collect(h Holdings) (Garbage, error) {
	for _, o := range h.Listed {
		if n := splitName(o.Name); n.kind == generationClaim && n.number > h.Generation {
			return Garbage{}, fault.New(fault.Fenced, "checkpointing: generation %d has been replaced by %d", h.Generation, n.number)
		}
	}
	c := newCollector(h)
	var g Garbage
	for _, o := range h.Listed {
		n := splitName(o.Name)
		switch {
		case n.kind == manifest && c.going[n.number]:
			g.Manifests = append(g.Manifests, o.Name)
		case n.kind == epochClaim && n.number < min(c.limit, c.newest) && !c.stays[n.number],
			n.kind == file && c.isGarbage(n.file),
			n.kind == generationBase && n.number < c.leastGeneration:
			g.Others = append(g.Others, o.Name)
		}
	}
	slices.Sort(g.Manifests)
	slices.Sort(g.Others)
	return g, nil
}

// limit is the least epoch whose objects are not looked at: the oldest under way, or the one to come.
func (h *Holdings) limit() uint64 {
	limit := uint64(1)
	for _, o := range h.Listed {
		if n := splitName(o.Name); n.kind == epochClaim || n.kind == manifest {
			limit = max(limit, n.number+1)
		}
	}
	for _, c := range h.Complete {
		limit = max(limit, c.Epoch+1)
	}
	for _, u := range h.UnderWay {
		limit = min(limit, u.Epoch)
	}
	return limit
}

type collector struct {
	generation uint64
	limit      uint64
	named      map[FileID]bool // by checkpoints that stay
	// stays and going are the epochs of manifests.
	stays, going map[uint64]bool
	// shield is the newest epoch whose manifest stays though we don't know what it names: it
	// may be any file up to that.
	shield uint64
	// newest checkpoint. The claims after it stay: whoever knows of it finds all that came later by
	// counting, however old a listing is.
	newest uint64
	// leastGeneration is the oldest of which a manifest stays. By what later ones began with
	// recovery tells which manifests count.
	leastGeneration uint64
}

func newCollector(h Holdings) *collector {
	c := &collector{
		generation: h.Generation, limit: h.limit(), leastGeneration: h.Generation,
		named: map[FileID]bool{}, stays: map[uint64]bool{}, going: map[uint64]bool{},
	}
	complete := slices.SortedFunc(slices.Values(h.Complete), func(a, b Checkpoint) int { return cmp.Compare(b.Epoch, a.Epoch) })
	oldest := c.limit // of the epochs retained
	for i, cp := range complete {
		over := slices.ContainsFunc(h.UnderWay, func(u UnderWay) bool { return u.Over == cp.Epoch })
		if i >= max(h.Retain, 1) && !over && cp.Epoch < c.limit {
			c.going[cp.Epoch] = true
			continue
		}
		c.stays[cp.Epoch] = true
		c.newest = max(c.newest, cp.Epoch)
		oldest = min(oldest, cp.Epoch)
		c.leastGeneration = min(c.leastGeneration, cp.Generation)
		for _, f := range cp.Files {
			c.named[f.FileID] = true
		}
	}
	for _, o := range h.Listed {
		n := splitName(o.Name)
		switch {
		case n.kind != manifest || c.stays[n.number] || c.going[n.number]:
		case n.number < c.limit && (slices.Contains(h.Orphaned, n.number) || len(complete) > 0 && n.number < oldest):
			c.going[n.number] = true // it does not count, or is of no use to anybody any more
		default:
			c.stays[n.number] = true
			c.shield = max(c.shield, n.number)
			c.leastGeneration = 0
		}
	}
	if len(c.stays) == 0 {
		c.leastGeneration = 0
	}
	return c
}

// isGarbage tells whether a file may be removed.
func (c *collector) isGarbage(f FileID) bool {
	return f.Generation <= c.generation && f.Epoch < c.limit && f.Epoch > c.shield && !c.named[f]
}
