package plan

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lintelrun/lintel/portable/coders"
)

// JSON returns the plan as one object: {"stages": [...]} in topological order.
//
// A stage has id, name, kind (executable, impulse, group-by-key, side-input, test-stream),
// environment (of executable ones), parallelism (if fixed), flags ("splittable",
// "finalizes", "multimap", "panes", "merges-in:ENVIRONMENT"), inputs and transforms. An input has from (a stage's
// id), kind (forward, keyed, rebalance, broadcast), pcollection (as the producer
// calls it) and coder (the elements' layout). A transform has id, name (the user's),
// urn and side_inputs, each with name, stage and, where the SDK must map windows, mapped.
func (p *Plan) JSON() ([]byte, error) { return json.Marshal(p.view()) }

type planView struct {
	Stages []*stageView `json:"stages"`
}

type stageView struct {
	ID          string           `json:"id"`
	Name        string           `json:"name"`
	Kind        string           `json:"kind"`
	Environment string           `json:"environment,omitempty"`
	Parallelism int              `json:"parallelism,omitempty"`
	Flags       []string         `json:"flags,omitempty"`
	Inputs      []*edgeView      `json:"inputs,omitempty"`
	Transforms  []*transformView `json:"transforms,omitempty"`
}

type edgeView struct {
	From        string `json:"from"`
	Kind        string `json:"kind"`
	PCollection string `json:"pcollection"`
	Coder       string `json:"coder"`
}

type transformView struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	URN        string      `json:"urn"`
	SideInputs []*sideView `json:"side_inputs,omitempty"`
}

type sideView struct {
	Name  string `json:"name"`
	Stage string `json:"stage"`
	// Mapped is true where the SDK maps windows.
	Mapped bool `json:"mapped,omitempty"`
}

// view is what all ways to show a plan have in common.
func (p *Plan) view() *planView {
	v := &planView{Stages: []*stageView{}}
	for _, s := range p.Stages {
		v.Stages = append(v.Stages, viewStage(s))
	}
	return v
}

func viewStage(s *Stage) *stageView {
	v := &stageView{ID: s.ID, Name: s.Name, Kind: s.Kind.String(), Parallelism: s.Parallelism}
	for _, e := range s.In {
		v.Inputs = append(v.Inputs, &edgeView{e.From.ID, e.Kind.String(), e.PCollection, Layout(e.Coder)})
	}
	switch {
	case s.Exec != nil:
		v.Environment = s.Exec.Environment
		if s.Exec.Splittable {
			v.Flags = append(v.Flags, "splittable")
		}
		if s.Exec.Stateful != nil {
			v.Flags = append(v.Flags, "stateful")
		}
		if s.Exec.Finalizes {
			v.Flags = append(v.Flags, "finalizes")
		}
		if s.Exec.StableInput {
			v.Flags = append(v.Flags, "stable-input")
		}
		v.Transforms = viewTransforms(s.Exec)
	case s.Group != nil:
		if s.Group.Panes {
			v.Flags = append(v.Flags, "panes")
		}
		if s.Group.BatchSize > 0 {
			v.Flags = append(v.Flags, fmt.Sprintf("batches-of:%d", s.Group.BatchSize))
		}
		if s.Group.Merge != nil {
			v.Flags = append(v.Flags, "merges-in:"+s.Group.Merge.Environment)
		}
	case s.Side != nil:
		if s.Side.Multimap {
			v.Flags = append(v.Flags, "multimap")
		}
		if s.Side.Group != nil {
			v.Flags = append(v.Flags, "panes")
		}
	}
	return v
}

// viewTransforms shows what an executable stage runs, in topological order.
func viewTransforms(x *ExecutableSpec) []*transformView {
	var views []*transformView
	for _, id := range x.Transforms {
		t := x.Descriptor.GetTransforms()[id]
		v := &transformView{ID: id, Name: t.GetUniqueName(), URN: t.GetSpec().GetUrn()}
		for _, side := range x.SideInputs {
			if side.Transform == id {
				v.SideInputs = append(v.SideInputs, &sideView{side.Name, side.Stage.ID, side.Mapping.Call != nil})
			}
		}
		views = append(views, v)
	}
	return views
}

// Layout writes a layout of elements for people: its coders without what their URNs share.
func Layout(w *coders.Windowed) string {
	var b strings.Builder
	writeCoder(&b, w.Element())
	b.WriteString(" in ")
	writeCoder(&b, w.Window())
	return b.String()
}

func writeCoder(b *strings.Builder, c *coders.Coder) {
	b.WriteString(strings.TrimSuffix(strings.TrimPrefix(c.URN(), "beam:coder:"), ":v1"))
	for i, comp := range c.Components() {
		b.WriteByte("<,"[min(i, 1)])
		writeCoder(b, comp)
	}
	if len(c.Components()) > 0 {
		b.WriteByte('>')
	}
}
