package plan

import (
	"fmt"
	"strings"
)

// Dot shows the plan as a graph in Graphviz's language.
func (p *Plan) Dot() string {
	var b strings.Builder
	b.WriteString("digraph plan {\n  node [shape=box];\n")
	for _, s := range p.Stages {
		fmt.Fprintf(&b, "  %s [label=%s];\n", s.ID, quote(s.ID+" "+s.Kind.String()+"\n"+s.Name))
	}
	for _, e := range p.Edges {
		style := "solid"
		if e.Kind == Broadcast {
			style = "dashed"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s, style=%s];\n", e.From.ID, e.To.ID, quote(e.Kind.String()), style)
	}
	b.WriteString("}\n")
	return b.String()
}

// quote makes a string of Graphviz's: quotes and backslashes are escaped, lines
// are centred.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
