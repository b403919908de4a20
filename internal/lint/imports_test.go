// Package lint holds the rules of this repository that a compiler does not know: which package
// may import which, what pure packages keep away from, and a few of style. Where a rule stands in
// the way of something good, change the rule here, with the reason.
package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// anything, as an arrow, allows all imports.
const anything = "*"

// arrows says for each component, a folder with all below it that is not a component itself, which
// others it may import. Within a component everything may be imported. Tests keep to the same.
var arrows = map[string][]string{
	"cmd/lintel":    {anything},
	"integration":   {anything},
	"scripts":       {},
	"web":           {"jobservice", "portable"},
	"jobservice":    {"portable"},
	"portable":      {},
	"statebackend":  {},
	"checkpointing": {},
	"coordination":  {},

	"fnapi":             {},
	"fnapi/environment": {},

	"runner/frame":     {},
	"runner/keygroup":  {},
	"runner/rpc":       {"runner/keygroup", "portable", "checkpointing"},
	"runner/engine":    {"runner/frame", "runner/keygroup", "portable/windowing", "portable/trigger", "statebackend"},
	"runner/exchange":  {"runner/frame", "runner/keygroup", "runner/rpc"},
	"runner/grouping":  {"runner/frame", "runner/keygroup", "portable/coders", "portable/windowing", "portable/trigger"},
	"runner/panes":     {"runner/frame", "runner/keygroup", "portable/coders", "portable/trigger", "portable/urns", "portable/windowing", "statebackend"},
	"runner/timers":    {"runner/engine", "runner/frame", "runner/keygroup", "portable", "statebackend"},
	"runner/parts":     {"runner/engine", "runner/frame", "runner/panes"},
	"runner/sideinput": {"runner/grouping/spillmap", "runner/keygroup", "portable/coders", "portable/windowing"},
	"runner/worker": {
		"runner/engine", "runner/exchange", "runner/frame", "runner/grouping", "runner/keygroup", "runner/panes", "runner/parts", "runner/rpc", "runner/sideinput", "runner/timers",
		"fnapi", "fnapi/environment", "fnapi/fnapitest", "statebackend", "checkpointing", "portable",
	},
	"runner/coordinator": {"runner/rpc", "runner/keygroup", "portable", "checkpointing", "coordination"},

	// internal is open to all, but has no knowledge of any.
	"internal": {},
}

// owners says which packages alone may import a foreign module.
var owners = map[string]string{
	"github.com/cockroachdb/pebble": "statebackend/pebblestate",
	"go.etcd.io":                    "coordination/etcdcoord",
	"cloud.google.com/go":           "checkpointing/gcsstore",
	"github.com/docker":             "fnapi/environment/docker",
	"github.com/moby":               "fnapi/environment/docker",
	"golang.org/x/net/http2":        "fnapi/h2",
	"github.com/prometheus/procfs":  "internal/machine",

	// All others have a Tracer of go.opentelemetry.io/otel/trace, which does nothing by default.
	"go.opentelemetry.io/otel/sdk":       "internal/tracing",
	"go.opentelemetry.io/otel/exporters": "internal/tracing",
}

// pure packages have no I/O, clock or goroutines.
var pure = []string{"runner/engine", "portable", "checkpointing/protocol"}

// impure is what pure packages do not import.
var impure = []string{"net", "os", "syscall", "golang.org/x/sys", "google.golang.org/grpc", "go.opentelemetry.io/otel"}

// protobuf is what the engine does not import.
var protobuf = []string{"google.golang.org/protobuf", "github.com/golang/protobuf", "github.com/apache/beam"}

// component returns the component that pkg belongs to: the longest that it is below.
func component(pkg string) (string, bool) {
	best := ""
	for c := range arrows {
		if below(pkg, c) && len(c) > len(best) {
			best = c
		}
	}
	return best, best != ""
}

// checkImports returns what is wrong with the imports of a file.
func checkImports(s *source) []string {
	from, ok := component(s.pkg)
	if !ok {
		return []string{fmt.Sprintf("%s: package %s belongs to no component: give it a line in arrows, internal/lint", s.name, s.pkg)}
	}
	var wrong []string
	for _, path := range slices.Sorted(maps.Keys(s.imports())) {
		report := func(format string, args ...any) {
			wrong = append(wrong, s.imports()[path]+": "+fmt.Sprintf(format, args...))
		}
		if own, ok := strings.CutPrefix(path, module+"/"); ok {
			if !allowed(from, own) {
				report("%s must not import %s (DESIGN.md section 3; arrows, internal/lint)", from, own)
			}
			if forTests(own) && !s.test && !forTests(s.pkg) {
				report("%s is for tests only", own)
			}
			continue
		}
		for lib, owner := range owners {
			if below(path, lib) && !below(s.pkg, owner) {
				report("%s is imported by %s only", lib, owner)
			}
		}
		if s.test || forTests(s.pkg) {
			continue
		}
		if lib, ok := belowAny(path, impure); ok && isPure(s.pkg) {
			report("%s is pure: no %s", s.pkg, lib)
		}
		if lib, ok := belowAny(path, protobuf); ok && below(s.pkg, "runner/engine") {
			report("the engine knows no protobuf: no %s", lib)
		}
	}
	return wrong
}

// allowed tells whether component from may import our package own.
func allowed(from, own string) bool {
	if below(own, "internal") {
		return true
	}
	to, ok := component(own)
	if !ok {
		return false
	}
	for _, a := range arrows[from] {
		// An arrow to a component does not reach the components below it; one to a part of a
		// component reaches that part only.
		if a == anything || below(own, a) && len(a) >= len(to) {
			return true
		}
	}
	return from == to
}

func isPure(pkg string) bool {
	_, ok := belowAny(pkg, pure)
	return ok
}

func TestImports(t *testing.T) {
	for _, s := range tree(t) {
		for _, w := range checkImports(s) {
			t.Error(w)
		}
	}
}

func TestImportRules(t *testing.T) {
	for _, c := range []struct{ file, imports, want string }{
		{"runner/worker/w.go", module + "/runner/engine", ""},
		{"runner/worker/w.go", module + "/portable/coders", ""},
		{"runner/worker/w.go", module + "/fnapi/environment/process", ""},
		{"runner/worker/w.go", module + "/runner/coordinator", "runner/worker must not import runner/coordinator"},
		{"runner/engine/e.go", module + "/portable/windowing", ""},
		{"runner/engine/e.go", module + "/portable/coders", "runner/engine must not import portable/coders"},
		{"runner/engine/e.go", module + "/internal/fault", ""},
		{"runner/sideinput/s.go", module + "/runner/grouping/spillmap", ""},
		{"runner/sideinput/s.go", module + "/runner/grouping", "must not import runner/grouping"},
		{"portable/graph/g.go", module + "/portable/urns", ""},
		{"portable/graph/g.go", module + "/checkpointing/protocol", "portable must not import checkpointing/protocol"},
		{"fnapi/f.go", module + "/fnapi/environment", "fnapi must not import fnapi/environment"},
		{"fnapi/environment/process/p_test.go", module + "/fnapi/environment/environmenttest", ""},
		{"fnapi/environment/process/p.go", module + "/fnapi/environment/environmenttest", "for tests only"},
		{"fnapi/environment/environmenttest/e.go", module + "/internal/testkit", ""},
		{"cmd/lintel/main.go", module + "/web/rest", ""},
		{"internal/fault/f.go", module + "/portable/urns", "internal must not import portable/urns"},
		{"jobservice/j.go", module + "/web", "jobservice must not import web"},
		{"elsewhere/e.go", "fmt", "belongs to no component"},
		{"web/w.go", module + "/elsewhere", "web must not import elsewhere"},

		{"statebackend/pebblestate/p.go", "github.com/cockroachdb/pebble/v2", ""},
		{"statebackend/memstate/p.go", "github.com/cockroachdb/pebble/v2", "imported by statebackend/pebblestate only"},
		{"fnapi/environment/external/e_test.go", "github.com/docker/docker/client", "imported by fnapi/environment/docker only"},

		{"runner/worker/w.go", "go.opentelemetry.io/otel/trace", ""},
		{"runner/worker/w.go", "go.opentelemetry.io/otel/sdk/trace", "imported by internal/tracing only"},

		{"portable/graph/g.go", "net/http", "pure: no net"},
		{"portable/graph/g_test.go", "net/http", ""},
		{"portable/portabletest/g.go", "os", ""},
		{"checkpointing/protocol/g.go", "os/exec", "pure: no os"},
		{"checkpointing/filestore/g.go", "os", ""},
		{"runner/engine/g.go", "google.golang.org/grpc/codes", "pure: no google.golang.org/grpc"},
		{"runner/engine/g.go", "github.com/apache/beam/sdks/v2/go/pkg/beam", "no protobuf"},
		{"portable/graph/g.go", "google.golang.org/protobuf/proto", ""},
		{"portable/graph/g.go", "netip", ""},
	} {
		s := parse(t, c.file, fmt.Sprintf("package p\n\nimport _ %q\n", c.imports))
		got := strings.Join(checkImports(s), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s with import of %s: %q; want %q", c.file, c.imports, got, c.want)
		}
	}
}
