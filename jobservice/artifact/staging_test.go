package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/portable/urns"
)

func TestStagedArtifactsComeBack(t *testing.T) {
	r := newRig(t, artifact.Config{})
	large := make([]byte, 3<<20+17) // several messages on the way out
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(large)
	url := &pipepb.ArtifactInformation{TypeUrn: urns.ArtifactURL, TypePayload: marshal(&pipepb.ArtifactUrlPayload{Url: "http://x/y.tgz", Sha256: strings.ToUpper(sumOf([]byte("from url")))})}
	pypi := &pipepb.ArtifactInformation{TypeUrn: urns.ArtifactPyPI, TypePayload: []byte("anything"), RoleUrn: "role", RolePayload: []byte{1}}
	goBinary := &pipepb.ArtifactInformation{TypeUrn: "beam:artifact:type:go_worker_binary:v1", RoleUrn: urns.ArtifactRoleGoWorkerBinary}
	c := &client{files: map[string][]byte{
		"/home/me/large.jar": large, "/home/me/empty": {}, "http://x/y.tgz": []byte("from url"), "": []byte("binary"), "/b/other": []byte("other"),
	}}
	deps := []*pipepb.ArtifactInformation{
		file("/home/me/large.jar", sumOf(large), "lib/large.jar"),
		file("/home/me/empty", "", "empty"),
		url, pypi,
		embedded([]byte("inline"), "inline.txt"),
		goBinary,
	}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"go": deps, "none": nil, "py": {file("/b/other", "", "")}})
	if err := c.stage(t.Context(), r, token); err != nil {
		t.Fatal(err)
	}
	got := r.Dependencies(token, "go")
	if len(got) != len(deps) {
		t.Fatalf("%d dependencies, want %d", len(got), len(deps))
	}
	for i, want := range [][]byte{large, {}, []byte("from url"), nil, []byte("inline"), []byte("binary")} {
		if got[i].GetRoleUrn() != deps[i].GetRoleUrn() || !bytes.Equal(got[i].GetRolePayload(), deps[i].GetRolePayload()) {
			t.Errorf("dependency %d has lost its role: %v", i, got[i])
		}
		if want == nil { // harnesses get it by themselves
			if diff := cmp.Diff(pypi, got[i], protocmp.Transform()); diff != "" {
				t.Errorf("pypi artifact changed:\n%s", diff)
			}
			continue
		}
		if p := filePayload(got[i]); got[i].GetTypeUrn() != urns.ArtifactFile || p.GetSha256() != sumOf(want) {
			t.Errorf("dependency %d: %s %v, want a file with the content's hash", i, got[i].GetTypeUrn(), p)
		}
		data, err := r.retrieve(t.Context(), got[i])
		if err != nil || !bytes.Equal(data, want) {
			t.Errorf("dependency %d: %d bytes, %v; want %d bytes", i, len(data), err, len(want))
		}
	}
	if p := filePayload(got[0]).GetPath(); !strings.HasSuffix(p, "/large.jar") {
		t.Errorf("path %q, want the name kept for boot programs", p)
	}
	if other := r.Dependencies(token, "py"); len(other) != 1 || filePayload(other[0]).GetSha256() != sumOf([]byte("other")) {
		t.Errorf("dependencies of the other environment: %v", other)
	}
	if r.Dependencies(token, "none") != nil || r.Dependencies("who", "go") != nil {
		t.Error("dependencies out of nothing")
	}
	res, err := r.retrieval.ResolveArtifacts(t.Context(), &jobpb.ResolveArtifactsRequest{Artifacts: got})
	if diff := cmp.Diff(got, res.GetReplacements(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("ResolveArtifacts: %v\n%s", err, diff)
	}
	if n := len(r.blobs(t)); n != 6 {
		t.Errorf("%d blobs, want 6", n)
	}
}

func TestReplacementsAreStaged(t *testing.T) {
	r := newRig(t, artifact.Config{})
	c := &client{
		files: map[string][]byte{"a": []byte("1"), "b": []byte("2")},
		replace: func([]*pipepb.ArtifactInformation) []*pipepb.ArtifactInformation {
			return []*pipepb.ArtifactInformation{file("a", "", "a"), file("b", "", "b")}
		},
	}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {{TypeUrn: urns.ArtifactDeferred}}})
	if err := c.stage(t.Context(), r, token); err != nil {
		t.Fatal(err)
	}
	if deps := r.Dependencies(token, "e"); len(deps) != 2 || filePayload(deps[1]).GetSha256() != sumOf([]byte("2")) {
		t.Errorf("dependencies %v, want the replacements", deps)
	}
}

func TestHeadersComeEvenIfThereIsNothingToStage(t *testing.T) {
	r := newRig(t, artifact.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream, err := r.staging.ReverseArtifactRetrievalService(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if md, err := stream.Header(); err != nil || md == nil { // before anything is sent
		t.Fatalf("headers %v, %v", md, err)
	}
	stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: r.open(t, nil)})
	if m, err := stream.Recv(); err == nil {
		t.Errorf("a request %v, though there is nothing to stage", m)
	}
}

func TestStagingAgainFetchesNothing(t *testing.T) {
	r := newRig(t, artifact.Config{})
	c := &client{files: map[string][]byte{"a": []byte("content")}}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "a")}})
	for range 2 {
		if err := c.stage(t.Context(), r, token); err != nil {
			t.Fatal(err)
		}
	}
	// A session of another job that announces the same content needs no transfer.
	known := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("elsewhere", sumOf([]byte("content")), "b")}})
	if err := c.stage(t.Context(), r, known); err != nil {
		t.Fatal(err)
	}
	if len(c.fetched) != 1 {
		t.Errorf("fetched %q, want one transfer", c.fetched)
	}
	r.Release(token)
	if data, err := r.retrieve(t.Context(), r.Dependencies(known, "e")[0]); err != nil || string(data) != "content" {
		t.Errorf("after the release of one of two sessions: %q, %v", data, err)
	}
	held := r.Dependencies(known, "e")[0]
	r.Release(known)
	r.Release(known)
	if left := r.blobs(t); len(left) != 0 {
		t.Errorf("blobs %v left after all sessions have gone", left)
	}
	if _, err := r.retrieve(t.Context(), held); status.Code(err) != codes.NotFound {
		t.Errorf("retrieval of a released artifact: %v, want NOT_FOUND", err)
	}
}

func TestNothingIsNotFetched(t *testing.T) {
	r := newRig(t, artifact.Config{})
	c := &client{}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("empty", sumOf(nil), "worker")}})
	if err := c.stage(t.Context(), r, token); err != nil || len(c.fetched) != 0 {
		t.Errorf("fetched %q, %v", c.fetched, err)
	}
	if data, err := r.retrieve(t.Context(), r.Dependencies(token, "e")[0]); err != nil || len(data) != 0 {
		t.Errorf("retrieved %q, %v", data, err)
	}
}

func TestStagedFilesAreThereForAnotherProcess(t *testing.T) {
	r := newRig(t, artifact.Config{})
	c := &client{files: map[string][]byte{"a": []byte("content"), "b": []byte("more")}}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "a"), file("b", "", "b")}, "f": {file("a", "", "a")}})
	if err := c.stage(t.Context(), r, token); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time they are on the disk already
		st, err := r.Staged(token)
		if err != nil || len(st.Blobs) != 3 || len(st.Dependencies["e"]) != 2 || st.Token != token {
			t.Fatalf("%+v, %v", st, err)
		}
	}
	other := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("b", "", "c")}})
	c.files["b"] = []byte("other")
	if err := c.stage(t.Context(), r, other); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.parent, "store", sumOf([]byte("other"))[:2])); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Staged(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone is said to be on the disk: %v", err)
	}
}

func TestFailedStagingLeavesNothingAndMayBeTriedAgain(t *testing.T) {
	r := newRig(t, artifact.Config{})
	good := &client{files: map[string][]byte{"a": []byte("1"), "b": []byte("2")}}
	bad := &client{send: func(s stagingStream, a *pipepb.ArtifactInformation) error {
		if pathOf(a) == "b" {
			return s.Send(resolved()) // not an answer to GetArtifact
		}
		return s.Send(chunk([]byte("1"), true)) // data in the last message counts
	}}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", ""), file("b", "", "")}})
	err := bad.stage(t.Context(), r, token)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("staging: %v; want INVALID_ARGUMENT that names b", err)
	}
	if left := r.blobs(t); len(left) != 0 {
		t.Errorf("a failed attempt left %v", left)
	}
	if err := good.stage(t.Context(), r, token); err != nil {
		t.Errorf("second attempt: %v", err)
	}
	if n := len(r.blobs(t)); n != 2 {
		t.Errorf("%d blobs, want 2", n)
	}
}

func TestHostileArtifactsAreRefusedByName(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for name, a := range map[string]*pipepb.ArtifactInformation{
		`"../../etc/x"`: file("a", "", "../../etc/x"),
		`"a/../../x"`:   file("a", "", "a/../../x"),
		`"/etc/passwd"`: file("a", "", "/etc/passwd"),
		`"a\x00b"`:      file("a", "", "a\x00b"),
		`"a\nb"`:        file("a", "", "a\nb"),
		`"a//b"`:        file("a", "", "a//b"),
		`"."`:           file("a", "", "."),
		long[:100]:      file("a", "", long),
		long[:99]:       file("a", "", long[:300]),
		"no SHA-256":    file("a", "zz", "fine"),
		`""`:            {TypeUrn: urns.ArtifactFile, RoleUrn: urns.ArtifactRoleStagingTo},
		"role payload":  {RoleUrn: urns.ArtifactRoleStagingTo, RolePayload: []byte{0xff}},
		"type payload":  {TypeUrn: urns.ArtifactFile, TypePayload: []byte{0xff}},
		"UrlPayload":    {TypeUrn: urns.ArtifactURL, TypePayload: []byte{0xff}},
	} {
		t.Run(name[:min(len(name), 20)], func(t *testing.T) {
			r := newRig(t, artifact.Config{})
			// In the pipeline it is refused before the job exists.
			_, err := r.Open(map[string]*pipepb.Environment{"e": {Dependencies: []*pipepb.ArtifactInformation{a}}})
			if fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), name) {
				t.Errorf("Open: %v; want an invalid-class error with %s", err, name)
			}
			// As a replacement it is refused while staging.
			c := &client{
				files: map[string][]byte{"a": []byte("1")},
				replace: func([]*pipepb.ArtifactInformation) []*pipepb.ArtifactInformation {
					return []*pipepb.ArtifactInformation{a}
				},
			}
			token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "")}})
			err = c.stage(t.Context(), r, token)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
				t.Errorf("staging: %v; want INVALID_ARGUMENT with %s", err, name)
			}
			if left := r.blobs(t); len(left) != 0 {
				t.Errorf("files left: %v", left)
			}
		})
	}
}

func TestPathsOfClientsAreNeverUsed(t *testing.T) {
	r := newRig(t, artifact.Config{})
	paths := []string{"../../etc/x", "/etc/passwd", "a\x00b", strings.Repeat("y", 10_000), "..", "C:\\x", "Case", "case", "ok.tar.gz"}
	c := &client{files: map[string][]byte{}}
	var deps []*pipepb.ArtifactInformation
	for i, p := range paths {
		c.files[p] = fmt.Append(nil, i)
		deps = append(deps, file(p, "", ""))
	}
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": deps})
	if err := c.stage(t.Context(), r, token); err != nil {
		t.Fatal(err)
	}
	for i, a := range r.Dependencies(token, "e") {
		p := filePayload(a).GetPath()
		if strings.ContainsAny(p, "\\\x00") || strings.Contains(p, "..") || strings.HasPrefix(p, "/") || len(p) > 200 {
			t.Errorf("path %q is passed on for %.20q", p, paths[i])
		}
		if data, err := r.retrieve(t.Context(), a); err != nil || string(data) != fmt.Sprint(i) {
			t.Errorf("artifact %d: %q, %v", i, data, err)
		}
	}
	if n := len(r.blobs(t)); n != len(paths) {
		t.Errorf("%d blobs, want %d", n, len(paths))
	}
}

func TestWrongContentIsRefused(t *testing.T) {
	one := []byte("1")
	for name, deps := range map[string][]*pipepb.ArtifactInformation{
		"was announced":     {file("one", sumOf([]byte("2")), "a")},
		"different content": {file("one", "", "same"), file("two", "", "same")},
	} {
		r := newRig(t, artifact.Config{})
		c := &client{files: map[string][]byte{"one": one, "two": []byte("2")}}
		token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": deps})
		err := c.stage(t.Context(), r, token)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("staging: %v; want INVALID_ARGUMENT with %q", err, name)
		}
		if left := r.blobs(t); len(left) != 0 {
			t.Errorf("files left: %v", left)
		}
	}
}

func TestQuotas(t *testing.T) {
	many := make([]*pipepb.ArtifactInformation, 11)
	for i := range many {
		many[i] = file("small", "", "")
	}
	forever := func(data []byte) func(stagingStream, *pipepb.ArtifactInformation) error {
		return func(s stagingStream, _ *pipepb.ArtifactInformation) error {
			for {
				if err := s.Send(chunk(data, false)); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range []struct {
		name   string
		client client
		deps   []*pipepb.ArtifactInformation
		code   codes.Code
		text   string
	}{
		{"one artifact", client{send: forever(make([]byte, 100))}, []*pipepb.ArtifactInformation{file("endless", "", "")}, codes.ResourceExhausted, `"endless"`},
		{"all artifacts", client{files: map[string][]byte{"x": make([]byte, 900), "y": make([]byte, 901)}}, []*pipepb.ArtifactInformation{file("x", "", ""), file("y", "", "")}, codes.ResourceExhausted, "1800 bytes"},
		{"known content counts", client{files: map[string][]byte{"x": make([]byte, 901)}}, []*pipepb.ArtifactInformation{file("x", "", ""), file("y", sumOf(make([]byte, 901)), "")}, codes.ResourceExhausted, "1800 bytes"},
		{"embedded", client{}, []*pipepb.ArtifactInformation{embedded(make([]byte, 1001), "big")}, codes.ResourceExhausted, `"big"`},
		{"nothing for ever", client{send: forever(nil)}, []*pipepb.ArtifactInformation{file("idle", "", "")}, codes.InvalidArgument, `"idle"`},
		{"number", client{replace: func([]*pipepb.ArtifactInformation) []*pipepb.ArtifactInformation { return many }}, []*pipepb.ArtifactInformation{file("x", "", "")}, codes.ResourceExhausted, "more than 10 artifacts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, artifact.Config{MaxArtifactBytes: 1000, MaxJobBytes: 1800, MaxArtifacts: 10})
			err := c.client.stage(t.Context(), r, r.open(t, map[string][]*pipepb.ArtifactInformation{"e": c.deps}))
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("staging: %v; want %v with %s", err, c.code, c.text)
			}
			if left := r.blobs(t); len(left) != 0 {
				t.Errorf("files left: %v", left)
			}
		})
	}
}

func TestUnknownToken(t *testing.T) {
	r := newRig(t, artifact.Config{})
	if err := new(client).stage(t.Context(), r, "guess"); status.Code(err) != codes.NotFound {
		t.Errorf("staging: %v, want NOT_FOUND", err)
	}
}

func TestClientThatDisappears(t *testing.T) {
	r := newRig(t, artifact.Config{})
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "")}})
	ctx, cancel := context.WithCancel(t.Context())
	gone := &client{send: func(s stagingStream, _ *pipepb.ArtifactInformation) error {
		s.Send(chunk([]byte("beginning"), false))
		cancel()
		return nil
	}}
	if err := gone.stage(ctx, r, token); status.Code(err) != codes.Canceled {
		t.Errorf("staging: %v", err)
	}
	closes := &client{send: func(s stagingStream, _ *pipepb.ArtifactInformation) error { return s.CloseSend() }}
	if err := closes.stage(t.Context(), r, token); status.Code(err) != codes.InvalidArgument {
		t.Errorf("staging by one who closes early: %v, want INVALID_ARGUMENT", err)
	}
	// The session isn't blocked, and once staging has ended nothing is left of either.
	c := &client{files: map[string][]byte{"a": []byte("all of it")}}
	if err := c.stage(t.Context(), r, token); err != nil {
		t.Fatal(err)
	}
	if blobs := r.blobs(t); len(blobs) != 1 || blobs[0] != sumOf([]byte("all of it")) {
		t.Errorf("blobs %v", blobs)
	}
}

func TestConcurrentStaging(t *testing.T) {
	r := newRig(t, artifact.Config{})
	files := map[string][]byte{}
	var deps []*pipepb.ArtifactInformation
	for i := range 5 {
		path := fmt.Sprint("f", i)
		files[path] = bytes.Repeat([]byte{byte(i)}, 5000)
		deps = append(deps, file(path, sumOf(files[path]), path))
	}
	var tokens []string
	for range 8 {
		tokens = append(tokens, r.open(t, map[string][]*pipepb.ArtifactInformation{"e": deps}))
	}
	var wg sync.WaitGroup
	for _, token := range tokens {
		for range 2 { // two streams for each session
			wg.Go(func() {
				c := &client{files: files}
				if err := c.stage(t.Context(), r, token); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := len(r.blobs(t)); n != len(files) {
		t.Errorf("%d blobs, want %d", n, len(files))
	}
	for _, token := range tokens {
		wg.Go(func() { r.Release(token) })
	}
	wg.Wait()
	if left := r.blobs(t); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
}

func TestSealWaitsForStaging(t *testing.T) {
	r := newRig(t, artifact.Config{})
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "")}})
	asked, release := make(chan struct{}), make(chan struct{})
	c := &client{send: func(s stagingStream, _ *pipepb.ArtifactInformation) error {
		close(asked)
		<-release
		return s.Send(chunk([]byte("x"), true))
	}}
	staged := make(chan error, 1)
	go func() { staged <- c.stage(t.Context(), r, token) }()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.Seal(ctx, token); err == nil {
		t.Error("Seal did not wait for the stream that stages")
	}
	close(release)
	if err := r.Seal(t.Context(), token); err != nil {
		t.Error(err)
	}
	if err := <-staged; err != nil {
		t.Error(err)
	}
	if deps := r.Dependencies(token, "e"); filePayload(deps[0]).GetSha256() != sumOf([]byte("x")) {
		t.Errorf("dependencies %v", deps)
	}

	// Sealed without: the pipeline's own stay, and later streams have nothing to do.
	late := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "")}})
	if err := r.Seal(t.Context(), late); err != nil {
		t.Error(err)
	}
	if err := new(client).stage(t.Context(), r, late); err != nil {
		t.Error(err)
	}
	if deps := r.Dependencies(late, "e"); pathOf(deps[0]) != "a" {
		t.Errorf("dependencies %v", deps)
	}
}

func TestReleaseWhileStaging(t *testing.T) {
	r := newRig(t, artifact.Config{})
	token := r.open(t, map[string][]*pipepb.ArtifactInformation{"e": {file("a", "", "")}})
	c := &client{send: func(s stagingStream, _ *pipepb.ArtifactInformation) error {
		r.Release(token)
		return s.Send(chunk([]byte("x"), true))
	}}
	if err := c.stage(t.Context(), r, token); status.Code(err) != codes.NotFound {
		t.Errorf("staging: %v, want NOT_FOUND", err)
	}
	if left := r.blobs(t); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
}
