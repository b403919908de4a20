package artifact_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/portable/urns"
)

// TestLinksInTheStoreAreNotFollowed plants links where blobs will lie: nothing
// outside is written, read or removed.
func TestLinksInTheStoreAreNotFollowed(t *testing.T) {
	r := newRig(t, artifact.Config{})
	outside := t.TempDir()
	content := []byte("content")
	sum := sumOf(content)
	if err := os.Symlink(outside, filepath.Join(r.parent, "store", sum[:2])); err != nil {
		t.Fatal(err)
	}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "a")}})
	c := &client{files: map[string][]byte{"a": content}}
	if err := c.stage(t.Context(), r, token); err == nil {
		t.Error("staging through a link succeeded")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside of the store: %v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(outside, sum), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := r.retrieve(t.Context(), file("a", sum, "")); status.Code(err) != codes.NotFound {
		t.Errorf("retrieved %q, %v", data, err)
	}
	r.Release(token)
	if _, err := os.Stat(filepath.Join(outside, sum)); err != nil {
		t.Error(err)
	}
}

// TestStoreIsBounded stages for many jobs at once what doesn't fit together.
func TestStoreIsBounded(t *testing.T) {
	const limit, size = 100_000, 30_000
	r := newRig(t, artifact.Config{MaxStoreBytes: limit})
	stage := func(i int) (token string, err error) {
		c := &client{files: map[string][]byte{"a": bytes.Repeat([]byte{byte(i)}, size)}}
		token = r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "a")}})
		return token, c.stage(t.Context(), r, token)
	}
	var mu sync.Mutex
	var held []string
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			token, err := stage(i)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				held = append(held, token)
			case status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "100000 bytes"):
				t.Errorf("staging: %v, want RESOURCE_EXHAUSTED", err)
			}
			if n := r.bytes(t); n > limit {
				t.Errorf("%d bytes on disk", n)
			}
		})
	}
	all.Wait()
	// Once others have gone there is room again, three times over.
	for round := range 3 {
		for _, token := range held {
			r.Release(token)
		}
		held = nil
		for i := range limit / size {
			token, err := stage(10*round + i)
			if err != nil {
				t.Errorf("round %d, job %d: %v", round, i, err)
			}
			held = append(held, token)
		}
		if _, err := stage(99); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("round %d, one too many: %v", round, err)
		}
		// What is there already takes no more room.
		token, err := stage(10 * round)
		if err != nil && status.Code(err) != codes.ResourceExhausted {
			t.Error(err)
		}
		held = append(held, token)
	}
}

// bytes returns the size of all files in and beside the store.
func (r *rig) bytes(t testing.TB) (n int64) {
	t.Helper()
	err := filepath.WalkDir(r.parent, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		if info, err := d.Info(); err == nil && !d.IsDir() { // else it has gone
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

// TestNamesThatClash stages names that some file system takes for the same.
func TestNamesThatClash(t *testing.T) {
	r := newRig(t, artifact.Config{})
	names := []string{"Lib.jar", "lib.jar", "lib.jar.", "lib.jar ", "LIB~1.JAR", "é", "e\u0301", "con", "a:b", "-rf", "%2e%2e", "0"}
	c := &client{files: map[string][]byte{}}
	var deps []*pipepb.ArtifactInformation
	for i, name := range names {
		path := fmt.Sprint("p", i)
		c.files[path] = fmt.Append(nil, "content ", i)
		deps = append(deps, file(path, "", name))
	}
	c.files["empty"] = nil
	deps = append(deps, file("empty", sumOf(nil), "empty"), file("empty", "", "empty"), deps[0]) // the same twice is fine
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": deps})
	if err := c.stage(t.Context(), r, token); err != nil {
		t.Fatal(err)
	}
	for i, a := range r.Dependencies(token, "e") {
		var role pipepb.ArtifactStagingToRolePayload
		if err := proto.Unmarshal(a.GetRolePayload(), &role); err != nil {
			t.Fatal(err)
		}
		data, err := r.retrieve(t.Context(), a)
		if want := c.files[pathOf(deps[i])]; err != nil || !bytes.Equal(data, want) || i < len(names) && role.GetStagedName() != names[i] {
			t.Errorf("%q: %q, %v, want %q", role.GetStagedName(), data, err, want)
		}
	}
	if n := len(r.blobs(t)); n != len(names)+1 {
		t.Errorf("%d blobs, want %d", n, len(names)+1)
	}
}

// FuzzArtifacts opens a session for any artifact and stages it: whatever comes,
// it is refused as invalid or served again, and nothing else is written.
func FuzzArtifacts(f *testing.F) {
	for _, a := range []*pipepb.ArtifactInformation{
		file("a", "", "../x"), file("/etc/passwd", sumOf([]byte("content")), "x/y"), embedded([]byte("data"), "z"), {TypeUrn: urns.ArtifactPyPI},
	} {
		f.Add(a.GetTypeUrn(), a.GetTypePayload(), a.GetRoleUrn(), a.GetRolePayload())
	}
	r := newRig(f, artifact.Config{})
	f.Fuzz(func(t *testing.T, typeURN string, typePayload []byte, roleURN string, rolePayload []byte) {
		a := &pipepb.ArtifactInformation{
			TypeUrn: strings.ToValidUTF8(typeURN, ""), TypePayload: typePayload, RoleUrn: strings.ToValidUTF8(roleURN, ""), RolePayload: rolePayload}
		token, err := r.Open(map[string]*pipepb.Environment{"e": {Dependencies: []*pipepb.ArtifactInformation{a}}})
		if err != nil {
			if fault.ClassOf(err) != fault.Invalid {
				t.Fatalf("Open: %v", err)
			}
			return
		}
		defer r.Release(token)
		c := &client{send: func(s stagingStream, _ *pipepb.ArtifactInformation) error {
			return s.Send(chunk([]byte("content"), true))
		}}
		if err := c.stage(t.Context(), r, token); err != nil {
			if status.Code(err) != codes.InvalidArgument {
				t.Fatalf("staging: %v", err)
			}
			return
		}
		_, err = r.retrieve(t.Context(), r.Dependencies(token, "e")[0])
		if code := status.Code(err); code != codes.OK && code != codes.FailedPrecondition {
			t.Fatalf("retrieval: %v", err)
		}
		r.blobs(t) // fails if there is anything else
	})
}
