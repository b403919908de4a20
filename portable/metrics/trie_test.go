package metrics

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/urns"
)

// trieOf is the payload of a set of paths; a "*" at its end truncates one.
func trieOf(bound int32, paths ...string) []byte {
	trie := &pipepb.BoundedTrie{Bound: bound}
	if len(paths) == 1 && !strings.HasSuffix(paths[0], "*") {
		trie.Singleton = strings.Split(paths[0], "/")
	} else if len(paths) > 0 {
		trie.Root = &pipepb.BoundedTrieNode{}
		for _, p := range paths {
			n := trie.Root
			for _, s := range strings.Split(strings.TrimSuffix(p, "/*"), "/") {
				if n.Truncated {
					break
				}
				if n.Children == nil {
					n.Children = map[string]*pipepb.BoundedTrieNode{}
				}
				if n.Children[s] == nil {
					n.Children[s] = &pipepb.BoundedTrieNode{}
				}
				n = n.Children[s]
			}
			if strings.HasSuffix(p, "*") {
				n.Truncated, n.Children = true, nil
			}
		}
	}
	b, err := proto.Marshal(trie)
	if err != nil {
		panic(err)
	}
	return b
}

// pathsOf are the paths of a trie, sorted; truncated ones end with "*".
func pathsOf(t testing.TB, payload []byte) (paths []string) {
	t.Helper()
	var trie pipepb.BoundedTrie
	if err := proto.Unmarshal(payload, &trie); err != nil {
		t.Fatal(err)
	}
	var walk func(n *pipepb.BoundedTrieNode, path string)
	walk = func(n *pipepb.BoundedTrieNode, path string) {
		if n.GetTruncated() {
			if len(n.GetChildren()) > 0 {
				t.Errorf("%q is truncated and has children", path)
			}
			paths = append(paths, path+"/*")
			return
		}
		if len(n.GetChildren()) == 0 {
			paths = append(paths, path)
		}
		for s, c := range n.GetChildren() {
			walk(c, strings.TrimPrefix(path+"/"+s, "/"))
		}
	}
	if root := rootOf(&trie); root != nil {
		walk(root, "")
	}
	slices.Sort(paths)
	return paths
}

// covers reports whether a trie's path stands for a path that was added.
func covers(path, added string) bool {
	if prefix, truncated := strings.CutSuffix(path, "*"); truncated && strings.HasPrefix(added+"/", strings.TrimPrefix(prefix, "/")) {
		return true
	}
	return path == added || strings.HasPrefix(path, added+"/") // a longer path stands for its beginnings
}

func TestTriesHoldAllPathsWithinTheirBound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 4).Draw(t, "segments"), "/")
		})
		bound := rapid.Int32Range(1, 12).Draw(rt, "bound")
		var added []string
		var payloads [][]byte
		for range rapid.IntRange(1, 6).Draw(rt, "bundles") {
			paths := rapid.SliceOfN(path, 0, 3).Draw(rt, "paths")
			added = append(added, paths...)
			payloads = append(payloads, trieOf(bound, paths...))
		}
		got := pathsOf(t, total(t, urns.MetricTypeBoundedTrie, payloads...))
		if len(payloads) > 1 && len(got) > int(bound) {
			rt.Fatalf("%d paths, more than %d: %q", len(got), bound, got)
		}
		for _, a := range added {
			if !slices.ContainsFunc(got, func(p string) bool { return covers(p, a) }) {
				rt.Fatalf("%q was added, but is not in %q", a, got)
			}
		}
		for _, p := range got {
			if !slices.ContainsFunc(added, func(a string) bool { return covers(p, a) }) {
				rt.Fatalf("%q is in %q, but was never added", p, got)
			}
		}
	})
}

func TestTries(t *testing.T) {
	for name, c := range map[string]struct {
		bound int32
		a, b  []string
		want  []string
	}{
		"nothing":                     {9, nil, nil, nil},
		"nothing and one":             {9, nil, []string{"a/b"}, []string{"a/b"}},
		"two singletons":              {9, []string{"a/b"}, []string{"a/c"}, []string{"a/b", "a/c"}},
		"the same":                    {9, []string{"a/b"}, []string{"a/b"}, []string{"a/b"}},
		"a path and its beginning":    {9, []string{"a"}, []string{"a/b"}, []string{"a/b"}},
		"truncated stays truncated":   {9, []string{"a/*"}, []string{"a/b/c", "d"}, []string{"a/*", "d"}},
		"the fullest is truncated":    {3, []string{"a/1", "a/2", "b/1"}, []string{"a/3"}, []string{"a/*", "b/1"}},
		"at the lowest level that is": {3, []string{"a/x/1", "a/x/2", "a/y"}, []string{"a/x/3"}, []string{"a/x/*", "a/y"}},
		"down to the root":            {1, []string{"a"}, []string{"b"}, []string{"/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, payloads := range [][][]byte{{trieOf(c.bound, c.a...), trieOf(c.bound, c.b...)}, {trieOf(c.bound, c.b...), trieOf(c.bound, c.a...)}} {
				if got := pathsOf(t, total(t, urns.MetricTypeBoundedTrie, payloads...)); !slices.Equal(got, c.want) {
					t.Errorf("%q, want %q", got, c.want)
				}
			}
		})
	}
}

// A hostile trie must not hold up the job: 20,000 paths are cut down to 100 in no time.
func TestLargeTrieIsTrimmedQuickly(t *testing.T) {
	var paths []string
	for i := range 10_000 {
		paths = append(paths, fmt.Sprint(i, "/a"), fmt.Sprint(i, "/b"))
	}
	began := time.Now()
	got := pathsOf(t, total(t, urns.MetricTypeBoundedTrie, trieOf(100, paths...), trieOf(100, "x/y")))
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if !slices.Equal(got, []string{"/*"}) {
		t.Errorf("%d paths are left", len(got))
	}
}
