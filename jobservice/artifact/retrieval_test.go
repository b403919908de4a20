package artifact_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/portable/urns"
)

func TestRetrievalServesNothingElse(t *testing.T) {
	r := newRig(t, artifact.Config{})
	secret := filepath.Join(r.parent, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		artifact *pipepb.ArtifactInformation
		code     codes.Code
		text     string
	}{
		"by path":         {file(secret, "", ""), codes.NotFound, "was not staged"},
		"by hash":         {file(secret, sumOf([]byte("secret")), ""), codes.NotFound, "was not staged"},
		"path as hash":    {file("x", "../../secret", ""), codes.InvalidArgument, "no SHA-256"},
		"another type":    {&pipepb.ArtifactInformation{TypeUrn: urns.ArtifactPyPI}, codes.FailedPrecondition, urns.ArtifactPyPI},
		"no artifact":     {nil, codes.FailedPrecondition, "was not staged"},
		"broken payload":  {&pipepb.ArtifactInformation{TypeUrn: urns.ArtifactFile, TypePayload: []byte{0xff}}, codes.InvalidArgument, "ArtifactFilePayload"},
		"broken embedded": {&pipepb.ArtifactInformation{TypeUrn: urns.ArtifactEmbedded, TypePayload: []byte{0xff}}, codes.InvalidArgument, "EmbeddedFilePayload"},
	} {
		data, err := r.retrieve(t.Context(), c.artifact)
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %q, %v; want %v with %q", name, data, err, c.code, c.text)
		}
	}
}

func TestEmbeddedThatWasNotStagedIsServed(t *testing.T) {
	r := newRig(t, artifact.Config{})
	want := strings.Repeat("0123456789", 300_000) // several messages
	if data, err := r.retrieve(t.Context(), embedded([]byte(want), "a")); err != nil || string(data) != want {
		t.Errorf("%d bytes, %v; want %d", len(data), err, len(want))
	}
}

func TestStoreSweepsWhatAnEarlierProcessLeft(t *testing.T) {
	dir := t.TempDir()
	store, err := artifact.OpenStore(dir, 1000)
	if err != nil {
		t.Fatal(err)
	}
	w, err := store.Create()
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("finished"))
	sum, err := w.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(); err != nil { // and never finished
		t.Fatal(err)
	}
	store.Close()
	foreign := filepath.Join(dir, "README")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if store, err = artifact.OpenStore(dir, 1000); err != nil {
		t.Fatal(err)
	}
	defer func() { store.Close() }()
	if size, ok := store.Retain(sum); !ok || size != 8 {
		t.Errorf("the finished blob: %d bytes, %v", size, ok)
	}
	if err := store.Sweep(); err != nil {
		t.Error(err)
	}
	if r, err := store.Open(sum); err != nil {
		t.Errorf("swept though it was retained: %v", err)
	} else {
		r.Close()
	}
	store.Close()
	if store, err = artifact.OpenStore(dir, 1000); err != nil {
		t.Fatal(err)
	}
	if err := store.Sweep(); err != nil { // nobody has retained it
		t.Error(err)
	}
	var left []string
	for _, pattern := range []string{"*", "*/*"} {
		m, _ := filepath.Glob(filepath.Join(dir, pattern))
		left = append(left, m...)
	}
	if len(left) != 2 || left[0] != foreign || left[1] != filepath.Join(dir, "tmp") {
		t.Errorf("left in the folder: %v", left)
	}
}
