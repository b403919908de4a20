package protocol

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lintelrun/lintel/internal/fault"
)

// Object is one that a listing of a job's folder has.
type Object struct {
	Name string
	Size int64
}

// Read is what came of reading an object.
type Read struct {
	// Data, if it is there.
	Data []byte
	// Absent is true where there is no such object.
	Absent bool
	// Problem is set where its bytes can't be had, or are not what they should be.
	Problem string
}

// Facts is what a new generation knows when it looks for what to begin with. The generation has
// been claimed before any of it was read.
type Facts struct {
	// Generation that begins.
	Generation uint64
	// Listed objects. It is no harm if the listing lacks objects that were made lately.
	Listed []Object
	// Read has objects by name.
	Read map[string]Read
	// Found are the sizes of objects that were looked for by name, Absent for those that are not there.
	Found map[string]int64
	// AtLeast is an epoch that is known to have been completed, 0 if none is.
	AtLeast uint64
	// Bad has epochs whose files turned out to be damaged when they were used, and how.
	Bad map[uint64]string
	// Strict refuses to go on from an older checkpoint than the newest.
	Strict bool
}

// Absent is the size of an object that is not there.
const Absent = -1

// Outcome is what a decision says.
type Outcome int

// The outcomes.
const (
	// ReadMore: read the objects of Decision.Read, look for those of Decision.Find, and decide again.
	ReadMore Outcome = iota
	// Restore from Decision.Manifest.
	Restore
	// RestoreSavepoint from Decision.Savepoint: there is no checkpoint since the job began with it.
	RestoreSavepoint
	// Fresh: there never was a checkpoint that counts.
	Fresh
	// Refuse: there are checkpoints, and none that can be used. Decision.Err says why.
	Refuse
)

// String returns the outcome's name.
func (o Outcome) String() string {
	return [...]string{"read more", "restore", "restore savepoint", "fresh", "refuse"}[o]
}

// Skipped is a checkpoint that was not taken, and why.
type Skipped struct {
	Epoch  uint64
	Reason string
}

// Decision is what to begin with.
type Decision struct {
	Outcome   Outcome
	Read      []string
	Find      []string
	Manifest  *Manifest
	Savepoint string
	// Skipped are newer checkpoints that are damaged, the newest first. Whoever restores says so.
	Skipped []Skipped
	// Orphaned are epochs whose manifests don't count: another generation began before them.
	Orphaned []uint64
	// Last is the highest epoch that was ever claimed; the next is above it.
	Last uint64
	Err  error
}

// Recover decides what a generation begins with. Call it again with what it asks to be read,
// until its outcome is another than ReadMore; it asks for each object once.
func Recover(f Facts) Decision {
	r := newRecovery(f)
	bases := r.bases()
	last := r.last()
	if len(r.want) > 0 {
		return Decision{Outcome: ReadMore, Read: r.want}
	}
	d := Decision{Last: last}
	r.choose(&d, bases)
	return d
}

// Survey tells which manifests count and which don't, for garbage collection. Those that can't be read
// are in neither. Call it again with what it asks to be read, until it asks for nothing.
func Survey(f Facts) (complete []Checkpoint, orphans []uint64, read []string) {
	r := newRecovery(f)
	bases := r.bases()
	for _, epoch := range r.epochs(r.last()) {
		m, problem := r.candidate(epoch)
		g := uint64(0)
		if m != nil {
			g = m.Generation
		} else if problem != "" {
			g = r.generation(epoch)
		}
		switch {
		case g == 0:
		case !r.counts(epoch, g, bases):
			orphans = append(orphans, epoch)
		case m != nil && g >= r.vague:
			complete = append(complete, m.Checkpoint())
		}
	}
	if len(r.want) > 0 {
		return nil, nil, r.want
	}
	return complete, orphans, nil
}

func newRecovery(f Facts) *recovery {
	r := &recovery{Facts: f, sizes: make(map[string]int64, len(f.Listed))}
	for _, o := range f.Listed {
		r.sizes[o.Name] = o.Size
	}
	return r
}

type recovery struct {
	Facts
	sizes map[string]int64 // of listed objects
	want  []string         // to read
	find  []string
	// vague is the newest generation whose base can't be read, 0 if none is, and why. Of generations
	// before it nobody knows which manifests count.
	vague    uint64
	vagueWhy string
	// oldest generation that has a base.
	oldest uint64
}

// read returns an object, and asks for it if it was not read yet.
func (r *recovery) read(name string) (Read, bool) {
	got, ok := r.Read[name]
	if !ok {
		r.want = append(r.want, name)
	}
	return got, ok
}

// bases returns what generations before this one began with, the newest first. A generation without
// a base has never begun an epoch, or nothing is left of it. Those that the listing is too old to have are
// looked for by their numbers.
func (r *recovery) bases() []Base {
	known := uint64(0)
	for name := range r.sizes {
		if o := splitName(name); o.kind == generationClaim && o.number < r.Generation {
			known = max(known, o.number)
		}
	}
	r.oldest = r.Generation
	var all []Base
	for g := r.Generation - 1; g > 0 && g < r.Generation; g-- {
		name := BaseName(g)
		if _, listed := r.sizes[name]; !listed && g < known {
			continue
		}
		got, ok := r.read(name)
		if !ok || got.Absent {
			continue
		}
		r.oldest = g
		b, err := DecodeBase(got.Data)
		why := got.Problem
		switch {
		case why != "":
		case err != nil:
			why = err.Error()
		case b.Generation != g:
			why = fmt.Sprintf("it is of generation %d", b.Generation)
		}
		if why == "" {
			all = append(all, b)
		} else if r.vague == 0 {
			r.vague, r.vagueWhy = g, fmt.Sprintf("%s: %s", name, why)
		}
	}
	return all
}

// last returns the highest epoch that was claimed. It does not rely on the listing to be new:
// epochs are claimed one after the other, so that the first that is not ends the search.
func (r *recovery) last() uint64 {
	last := r.AtLeast
	for name := range r.sizes {
		if o := splitName(name); o.kind == epochClaim || o.kind == manifest {
			last = max(last, o.number)
		}
	}
	for {
		got, ok := r.read(ClaimName(last + 1))
		if !ok || got.Absent {
			return last
		}
		last++
	}
}

// candidate reads the manifest of an epoch; problem says why it can't be used.
func (r *recovery) candidate(epoch uint64) (m *Manifest, problem string) {
	if why, bad := r.Bad[epoch]; bad {
		return nil, why
	}
	name := ManifestName(epoch)
	got, ok := r.read(name)
	switch {
	case !ok:
		return nil, ""
	case got.Absent && epoch == r.AtLeast:
		return nil, "its manifest is missing"
	case got.Absent || got.Problem != "":
		return nil, got.Problem
	}
	m, err := DecodeManifest(got.Data)
	if err != nil {
		return nil, err.Error()
	}
	if m.Epoch != epoch {
		return nil, fmt.Sprintf("%s is of epoch %d", name, m.Epoch)
	}
	return m, ""
}

// missing says which of a manifest's files is not there as it should be.
func (r *recovery) missing(m *Manifest) (problem string) {
	for _, f := range m.Files {
		name := f.Name()
		size, ok := r.sizes[name]
		if !ok { // the listing may be older than the file
			size, ok = r.Found[name]
		}
		switch {
		case !ok:
			r.find = append(r.find, name)
		case size == Absent && problem == "":
			problem = fmt.Sprintf("file %s is missing", name)
		case size != f.Size && problem == "":
			problem = fmt.Sprintf("file %s has %d bytes, not %d", name, size, f.Size)
		}
	}
	return problem
}

// generation returns that of an epoch whose manifest can't be read, 0 if unknown.
func (r *recovery) generation(epoch uint64) uint64 {
	got, ok := r.read(ClaimName(epoch))
	if !ok || got.Absent || got.Problem != "" {
		return 0
	}
	c, err := DecodeClaim(got.Data)
	if err != nil {
		return 0
	}
	return c.Generation
}

// choose takes the newest manifest that counts and is whole.
func (r *recovery) choose(d *Decision, bases []Base) {
	for _, epoch := range r.epochs(d.Last) {
		m, problem := r.candidate(epoch)
		counts := true
		switch {
		case m != nil:
			if counts = r.counts(epoch, m.Generation, bases); counts && m.Generation < r.vague {
				problem = r.vagueWhy
			} else if counts {
				problem = r.missing(m)
			}
		case problem != "":
			g := r.generation(epoch)
			counts = g == 0 || r.counts(epoch, g, bases)
		}
		if len(r.want)+len(r.find) > 0 {
			d.Outcome, d.Read, d.Find = ReadMore, r.want, r.find
			return
		}
		switch {
		case !counts:
			d.Orphaned = append(d.Orphaned, epoch)
		case problem != "":
			d.Skipped = append(d.Skipped, Skipped{epoch, problem})
			if r.Strict {
				d.Outcome, d.Err = Refuse, refusal(d.Skipped, true)
				return
			}
		case m != nil:
			d.Outcome, d.Manifest = Restore, m
			return
		}
	}
	switch {
	case len(d.Skipped) > 0:
		d.Outcome, d.Err = Refuse, refusal(d.Skipped, false)
	case r.vague > 0 && (len(bases) == 0 || bases[0].Generation < r.vague):
		d.Outcome, d.Err = Refuse, corrupt("what the job began with can't be read: %s", r.vagueWhy)
	case len(bases) > 0 && bases[0].Savepoint != "":
		d.Outcome, d.Savepoint = RestoreSavepoint, bases[0].Savepoint
	default:
		d.Outcome = Fresh
	}
}

// epochs are those that may have a manifest, the newest first.
func (r *recovery) epochs(last uint64) []uint64 {
	may := map[uint64]bool{}
	for name := range r.sizes {
		if o := splitName(name); o.kind == manifest || o.kind == epochClaim {
			may[o.number] = true
		}
	}
	for name, got := range r.Read {
		if o := splitName(name); o.kind == epochClaim && !got.Absent {
			may[o.number] = true
		}
	}
	if r.AtLeast > 0 {
		may[r.AtLeast] = true
	}
	for epoch := range r.Bad {
		may[epoch] = true
	}
	delete(may, 0)
	all := slices.Sorted(maps.Keys(may))
	slices.Reverse(all)
	return slices.DeleteFunc(all, func(e uint64) bool { return e > last })
}

// counts tells whether the manifests of a generation count up to an epoch: later generations went
// on from it, or something newer. Of generations whose base was removed none do.
func (r *recovery) counts(epoch, generation uint64, bases []Base) bool {
	return generation >= r.oldest && !slices.ContainsFunc(bases, func(b Base) bool { return b.Generation > generation && epoch > b.Epoch })
}

func refusal(skipped []Skipped, strict bool) error {
	lines := make([]string, len(skipped))
	for i, s := range skipped {
		lines[i] = fmt.Sprintf("checkpoint %d: %s", s.Epoch, s.Reason)
	}
	what := "no checkpoint can be used"
	if strict {
		what = "the newest checkpoint can't be used, and older ones are not to be"
	}
	return fault.New(fault.Corruption, "checkpointing: %s: %s", what, strings.Join(lines, "; "))
}
