package lint

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the generated part of .golangci.yml")

const (
	golangci = "../../.golangci.yml"
	begin    = "        # begin of what internal/lint generates from its tables (go test ./internal/lint -update)\n"
	end      = "        # end of what internal/lint generates\n"
)

// TestGolangci keeps golangci-lint's depguard to the same rules as ours, for editors that show its
// findings while one types.
func TestGolangci(t *testing.T) {
	text, err := os.ReadFile(golangci)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines\n%s%s", golangci, begin, end)
	}
	want := depguard()
	if *update {
		if err := os.WriteFile(golangci, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s differs from the tables; run go test ./internal/lint -update (-want +got):\n%s", golangci, diff)
	}
}

// depguard writes the tables as rules of depguard in mode lax: what is denied by a longer prefix
// than it is allowed by is refused.
func depguard() string {
	var b strings.Builder
	list := func(name string, paths []string) {
		if len(paths) > 0 {
			fmt.Fprintf(&b, "          %s:\n", name)
		}
		for _, p := range paths {
			fmt.Fprintf(&b, "            - %s\n", p)
		}
	}
	deny := func(why string, paths []string) {
		for i, p := range paths {
			paths[i] = fmt.Sprintf("{pkg: %s, desc: %q}", p, why)
		}
		list("deny", paths)
	}
	rule := func(name string, files []string) {
		fmt.Fprintf(&b, "        %s:\n          list-mode: lax\n", name)
		for i, f := range files {
			files[i] = fmt.Sprintf("%q", f)
		}
		list("files", files)
	}
	components := slices.Sorted(maps.Keys(arrows))
	for _, c := range components {
		if c == "internal" || slices.Contains(arrows[c], anything) {
			continue // there are other folders named internal
		}
		files := []string{"**/" + c + "/**"}
		allow := append([]string{c, "internal"}, arrows[c]...)
		denied := []string{module}
		for _, other := range components {
			if below(other, c) && other != c {
				files = append(files, "!**/"+other+"/**")
			}
			if _, ok := belowAny(other, allow); ok && !slices.Contains(allow, other) {
				denied = append(denied, module+"/"+other)
			}
		}
		rule("arrows-"+strings.ReplaceAll(c, "/", "-"), files)
		for i, a := range allow {
			allow[i] = module + "/" + a
		}
		list("allow", allow)
		deny("no arrow leads there: DESIGN.md section 3", denied)
	}
	for _, lib := range slices.Sorted(maps.Keys(owners)) {
		name := strings.NewReplacer("/", "-", ".", "-").Replace(lib)
		rule("only-"+name, []string{"**", "!**/" + owners[lib] + "/**"})
		deny("imported by "+owners[lib]+" only", []string{lib})
	}
	for _, p := range pure {
		rule("pure-"+strings.ReplaceAll(p, "/", "-"), []string{"**/" + p + "/**", "!$test", "!**/*test/**"})
		deny("the package is pure", slices.Clone(impure))
	}
	rule("engine-knows-no-protobuf", []string{"**/runner/engine/**", "!$test"})
	deny("the engine knows no protobuf", slices.Clone(protobuf))
	return b.String()
}
