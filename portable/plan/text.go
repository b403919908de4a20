package plan

import (
	"fmt"
	"strings"
)

// String returns the kind as plans show it.
func (k StageKind) String() string {
	return name([]string{"executable", "impulse", "group-by-key", "side-input", "test-stream"}, int(k))
}

// String returns the kind as plans show it.
func (k EdgeKind) String() string {
	return name([]string{"forward", "keyed", "rebalance", "broadcast"}, int(k))
}

func name(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("kind %d", i)
	}
	return names[i]
}

// Text shows the plan to people: a paragraph for each stage with what it runs
// and where its inputs come from.
func (p *Plan) Text() string {
	var b strings.Builder
	for i, s := range p.view().Stages {
		if i > 0 {
			b.WriteByte('\n')
		}
		s.text(&b)
	}
	return b.String()
}

func (s *stageView) text(b *strings.Builder) {
	fmt.Fprintf(b, "%s %s", s.ID, s.Kind)
	if s.Environment != "" {
		fmt.Fprintf(b, " in %s", s.Environment)
	}
	if s.Parallelism > 0 {
		fmt.Fprintf(b, " x%d", s.Parallelism)
	}
	for _, flag := range s.Flags {
		fmt.Fprintf(b, " %s", flag)
	}
	fmt.Fprintf(b, ": %s\n", s.Name)
	for _, e := range s.Inputs {
		fmt.Fprintf(b, "  <- %s %s %s: %s\n", e.From, e.Kind, e.PCollection, e.Coder)
	}
	for _, t := range s.Transforms {
		fmt.Fprintf(b, "  %s %s\n", t.ID, t.URN)
		for _, side := range t.SideInputs {
			fmt.Fprintf(b, "    side input %s from %s\n", side.Name, side.Stage)
		}
	}
}
