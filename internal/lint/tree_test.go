package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/lintelrun/lintel"

// source is a Go file of ours.
type source struct {
	pkg       string // folder below the module's root, with slashes; what the rules go by
	name      string // path below the root
	test      bool
	generated bool
	lines     int
	fset      *token.FileSet
	ast       *ast.File
}

func (s *source) position(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	return s.name + ":" + strconv.Itoa(p.Line)
}

// imports returns the paths that the file imports, with the places where it does.
func (s *source) imports() map[string]string {
	found := map[string]string{}
	for _, i := range s.ast.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			found[p] = s.position(i)
		}
	}
	return found
}

// parse makes a source of text; it is how the rules are tested.
func parse(t *testing.T, name, text string) *source {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return &source{
		pkg:       path.Dir(name),
		name:      name,
		test:      strings.HasSuffix(name, "_test.go"),
		generated: ast.IsGenerated(f),
		lines:     bytes.Count([]byte(text), []byte{'\n'}),
		fset:      fset,
		ast:       f,
	}
}

// tree returns all Go files of this module, whatever their build tags. It reads the files itself
// instead of asking `go list`, so that the test cache knows what the answer depends on.
func tree(t *testing.T) []*source {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var all []*source
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && skipped(p, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		all = append(all, parse(t, rel, string(text)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d Go files below %s: this is not the module's root", len(all), root)
	}
	return all
}

// skipped holds for folders that the go command passes over too, and for other modules.
func skipped(p, rel string) bool {
	base := path.Base(rel)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(p, "go.mod"))
	return err == nil || rel == "internal/depstmp"
}

// below tells whether pkg is the folder dir or lies in it.
func below(pkg, dir string) bool {
	return pkg == dir || strings.HasPrefix(pkg, dir+"/")
}

// belowAny returns the first of dirs that pkg is below.
func belowAny(pkg string, dirs []string) (string, bool) {
	for _, d := range dirs {
		if below(pkg, d) {
			return d, true
		}
	}
	return "", false
}

// forTests tells whether a package exists for the tests of others.
func forTests(pkg string) bool {
	return strings.HasSuffix(path.Base(pkg), "test") || pkg == "internal/testkit" || below(pkg, "integration")
}
