package lint

import (
	"go/ast"
	"maps"
	"regexp"
	"slices"
	"testing"
)

// decoder is how functions are named that read bytes whose makers we don't control.
var decoder = regexp.MustCompile(`^(parse|Parse|decode|Decode|unmarshal|Unmarshal)`)

// decodes reports whether a function is a decoder: it has the name of one and takes bytes.
func decodes(f *ast.FuncDecl) bool {
	return decoder.MatchString(f.Name.Name) && slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool {
		slice, ok := p.Type.(*ast.ArrayType)
		if !ok || slice.Len != nil {
			return false
		}
		of, ok := slice.Elt.(*ast.Ident)
		return ok && of.Name == "byte"
	})
}

// unfuzzed returns, by package, the position of a decoder in each that has no fuzz target.
func unfuzzed(sources []*source) map[string]string {
	decoders, fuzzed := map[string]string{}, map[string]bool{}
	for _, s := range sources {
		for _, d := range s.ast.Decls {
			switch f, ok := d.(*ast.FuncDecl); {
			case !ok:
			case s.test && regexp.MustCompile(`^Fuzz[A-Z]`).MatchString(f.Name.Name):
				fuzzed[s.pkg] = true
			case !s.test && !s.generated && !forTests(s.pkg) && decodes(f):
				decoders[s.pkg] = s.position(f)
			}
		}
	}
	maps.DeleteFunc(decoders, func(pkg, _ string) bool { return fuzzed[pkg] })
	return decoders
}

// Every package that decodes bytes has a fuzz target, which `make fuzz-short` runs.
func TestDecodersAreFuzzed(t *testing.T) {
	for _, at := range unfuzzed(tree(t)) {
		t.Errorf("%s: a decoder, and the package has no fuzz target", at)
	}
}

func TestUnfuzzedDecodersAreFound(t *testing.T) {
	bad := parse(t, "a/a.go", "package a\nfunc parseThing(b []byte) int { return 0 }\nfunc parseText(s string) {}")
	fuzz := parse(t, "a/a_test.go", "package a\nfunc FuzzThing(f *testing.F) {}")
	if got := unfuzzed([]*source{bad}); len(got) != 1 {
		t.Errorf("without a target: %v", got)
	}
	if got := unfuzzed([]*source{bad, fuzz}); len(got) != 0 {
		t.Errorf("with one: %v", got)
	}
}
