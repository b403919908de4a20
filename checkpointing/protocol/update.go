package protocol

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lintelrun/lintel/internal/fault"
)

// Pipeline is what has to be known of one to tell whether another goes on with its state.
type Pipeline struct {
	// Transforms that are leaves, sorted by name.
	Transforms []Transform
}

// Transform is one transform, by its unique name in the pipeline.
type Transform struct {
	Name, URN string
	// Coder and Windowing are printed forms of those of its main input: equal if and only if
	// what was written by one can be read by the other.
	Coder, Windowing string
	// Keeps is true where a checkpoint has something of the transform: state, timers, groups,
	// residuals. Others may come and go.
	Keeps  bool
	States []StateSpec   // sorted by ID
	Timers []TimerFamily // sorted by Family
}

// StateSpec is a state that a transform declares.
type StateSpec struct{ ID, Kind, Coder string }

// TimerFamily is a timer family that a transform declares, and its time domain.
type TimerFamily struct{ Family, Domain string }

func (p *Pipeline) validate() error {
	for i, t := range p.Transforms {
		if t.Name == "" || i > 0 && t.Name <= p.Transforms[i-1].Name {
			return corrupt("transform %q is not in the order of names", t.Name)
		}
		if !increasing(t.States, func(s StateSpec) string { return s.ID }) || !increasing(t.Timers, func(f TimerFamily) string { return f.Family }) {
			return corrupt("states or timers of transform %q are not in the order of names", t.Name)
		}
	}
	return nil
}

func increasing[T any](all []T, name func(T) string) bool {
	for i := 1; i < len(all); i++ {
		if name(all[i]) <= name(all[i-1]) {
			return false
		}
	}
	return true
}

// Verdict is what an update does to a transform.
type Verdict int

// The verdicts. Kept, Added and Dropped are of transforms as a whole; a transform that is kept
// has others beside it for what of it has changed.
const (
	Kept Verdict = iota
	Added
	Dropped
	CoderChanged
	StateChanged
	TimerChanged
	WindowChanged
	// NeedsMapping: a transform that keeps something is gone and another of its kind is new. If
	// it was renamed, a mapping of names says so.
	NeedsMapping
)

// String returns the verdict in words.
func (v Verdict) String() string {
	return [...]string{"kept", "added", "dropped", "coder changed", "state changed", "timer changed", "window changed", "needs a name mapping"}[v]
}

// Finding is a line of a report.
type Finding struct {
	// Transform by its name in the new pipeline; that of the old one if it has no other.
	Transform string
	// Was is its name in the old pipeline, if it was renamed.
	Was     string
	Verdict Verdict
	// Detail says what is different, for people.
	Detail string
	// Blocks is true where the update would lose or misread state.
	Blocks bool
}

// String returns the finding as a line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s", f.Verdict, f.Transform)
	if f.Was != "" {
		s += " (was " + f.Was + ")"
	}
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	if f.Blocks {
		s += " [blocks]"
	}
	return s
}

// Update is how an old pipeline's names go to a new one's, and what may be lost.
type Update struct {
	// Names has old names, or the names of composites that they begin with, and the new ones.
	// The longest counts.
	Names map[string]string
	// MayDrop has the old names of transforms whose state may be dropped, all of it or, in the
	// form "name:state", that of one state or timer family.
	MayDrop []string
}

// Rename returns the new name of a transform.
func (u *Update) Rename(name string) string {
	to, _ := u.rename(name)
	return to
}

// rename also returns the name in Names by which it goes, "" for none.
func (u *Update) rename(name string) (to, by string) {
	for at := len(name); at > 0; at = strings.LastIndexByte(name[:at], '/') {
		if to, ok := u.Names[name[:at]]; ok {
			return to + name[at:], name[:at]
		}
	}
	return name, ""
}

// Drops tells whether all state of the transform of an old name may be dropped.
func (u *Update) Drops(name string) bool { return slices.Contains(u.MayDrop, name) }

// DropsOf returns the states and timer families of the transform of an old name that may be dropped.
func (u *Update) DropsOf(name string) []string {
	var all []string
	for _, may := range u.MayDrop {
		if what, ok := strings.CutPrefix(may, name+":"); ok {
			all = append(all, what)
		}
	}
	return all
}

// Compare says what becomes of each transform when the job goes on as the pipeline to. The
// findings are sorted by transform. It returns a fault.Invalid if the update names what
// there is not.
func Compare(from, to Pipeline, u Update) ([]Finding, error) {
	c := comparison{Update: u, used: map[string]bool{}, after: map[string]Transform{}}
	for _, t := range to.Transforms {
		c.after[t.Name] = t
	}
	taken := map[string]string{} // new names, by whom
	for _, old := range from.Transforms {
		name := c.renamed(old.Name)
		if before, twice := taken[name]; twice {
			return nil, fault.New(fault.Invalid, "the name mapping makes %q of both %q and %q", name, before, old.Name)
		}
		taken[name] = old.Name
		if now, ok := c.after[name]; ok {
			c.kept(old, now)
		} else if name != old.Name {
			return nil, fault.New(fault.Invalid, "the name mapping makes %q of %q; the new pipeline has no transform of that name", name, old.Name)
		} else {
			c.dropped(old, from)
		}
	}
	for _, t := range to.Transforms {
		if _, ok := taken[t.Name]; !ok {
			c.add(Finding{Transform: t.Name, Verdict: Added})
		}
	}
	for _, name := range append(slices.Sorted(maps.Keys(u.Names)), u.MayDrop...) {
		if !c.used[name] {
			return nil, fault.New(fault.Invalid, "the update names %q, of which it would change nothing", name)
		}
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		return strings.Compare(a.Transform+"\x00"+a.Was, b.Transform+"\x00"+b.Was)
	})
	return c.found, nil
}

// Blocked returns those of findings that stand in the way of the update.
func Blocked(found []Finding) []Finding {
	var out []Finding
	for _, f := range found {
		if f.Blocks {
			out = append(out, f)
		}
	}
	return out
}

type comparison struct {
	Update
	used  map[string]bool // of Names and MayDrop
	after map[string]Transform
	found []Finding
}

func (c *comparison) add(f Finding) { c.found = append(c.found, f) }

// renamed returns the new name of a transform.
func (c *comparison) renamed(name string) string {
	to, by := c.rename(name)
	if by != "" {
		c.used[by] = true
	}
	return to
}

// allowed tells whether something may be lost.
func (c *comparison) allowed(names ...string) bool {
	for _, name := range names {
		if slices.Contains(c.MayDrop, name) {
			c.used[name] = true
			return true
		}
	}
	return false
}

// dropped is about a transform that the new pipeline does not have.
func (c *comparison) dropped(old Transform, from Pipeline) {
	f := Finding{Transform: old.Name, Verdict: Dropped}
	switch {
	case !old.Keeps:
	case c.allowed(old.Name):
		f.Detail = "with its state, as allowed"
	default:
		f.Blocks, f.Detail = true, "it has state, which would be lost"
		if like := c.candidates(old, from); len(like) > 0 {
			f.Verdict, f.Detail = NeedsMapping, fmt.Sprintf("it has state, and may now be called %q", like)
		}
	}
	c.add(f)
}

// candidates are the new transforms that could be the old one by another name.
func (c *comparison) candidates(old Transform, from Pipeline) []string {
	was := map[string]bool{}
	for _, t := range from.Transforms {
		was[t.Name] = true
	}
	var like []string
	for _, name := range slices.Sorted(maps.Keys(c.after)) {
		t := c.after[name]
		if was[name] || t.URN != old.URN || !t.Keeps {
			continue
		}
		probe := comparison{used: map[string]bool{}}
		if probe.kept(old, t); len(Blocked(probe.found)) == 0 {
			like = append(like, name)
		}
	}
	return like
}

// kept is about a transform that both pipelines have.
func (c *comparison) kept(old, now Transform) {
	f := Finding{Transform: now.Name}
	if old.Name != now.Name {
		f.Was = old.Name
	}
	c.add(f)
	if !old.Keeps {
		return // there is nothing to be misread
	}
	report := func(v Verdict, blocks bool, format string, args ...any) {
		f.Verdict, f.Blocks, f.Detail = v, blocks, fmt.Sprintf(format, args...)
		c.add(f)
	}
	if c.allowed(old.Name) {
		report(Dropped, false, "its state, as allowed")
		return
	}
	if old.URN != now.URN {
		report(StateChanged, true, "it is %s now, and was %s", now.URN, old.URN)
	}
	if old.Coder != now.Coder {
		report(CoderChanged, true, "input is %s, and was %s", now.Coder, old.Coder)
	}
	if old.Windowing != now.Windowing {
		report(WindowChanged, true, "%s, and was %s", now.Windowing, old.Windowing)
	}
	c.states(old, now, report)
	c.timers(old, now, report)
}

type reporter func(v Verdict, blocks bool, format string, args ...any)

func (c *comparison) states(old, now Transform, report reporter) {
	for _, s := range old.States {
		i := slices.IndexFunc(now.States, func(n StateSpec) bool { return n.ID == s.ID })
		if i >= 0 && now.States[i] == s {
			continue
		}
		may := c.allowed(old.Name + ":" + s.ID)
		switch {
		case i < 0:
			report(StateChanged, !may, "state %q is gone", s.ID)
		case now.States[i].Kind != s.Kind:
			report(StateChanged, !may, "state %q is of kind %s, and was %s", s.ID, now.States[i].Kind, s.Kind)
		default:
			report(CoderChanged, !may, "state %q has coder %s, and had %s", s.ID, now.States[i].Coder, s.Coder)
		}
	}
	for _, s := range now.States {
		if !slices.ContainsFunc(old.States, func(o StateSpec) bool { return o.ID == s.ID }) {
			report(StateChanged, false, "state %q is new, and begins empty", s.ID)
		}
	}
}

func (c *comparison) timers(old, now Transform, report reporter) {
	for _, t := range old.Timers {
		i := slices.IndexFunc(now.Timers, func(n TimerFamily) bool { return n.Family == t.Family })
		if i >= 0 && now.Timers[i] == t {
			continue
		}
		may := c.allowed(old.Name + ":" + t.Family)
		if i < 0 {
			report(TimerChanged, !may, "timer %q is gone", t.Family)
		} else {
			report(TimerChanged, !may, "timer %q is of %s, and was of %s", t.Family, now.Timers[i].Domain, t.Domain)
		}
	}
	for _, t := range now.Timers {
		if !slices.ContainsFunc(old.Timers, func(o TimerFamily) bool { return o.Family == t.Family }) {
			report(TimerChanged, false, "timer %q is new", t.Family)
		}
	}
}
