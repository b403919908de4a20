package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/filestore"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// lintel runs a command and returns what it prints on standard output, and its exit code.
func lintel(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&b)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
	}
	return b.String(), codeOf(err)
}

// wantLintel runs a command that must end with a code and print all of the texts.
func wantLintel(t *testing.T, code int, args []string, holds ...string) {
	t.Helper()
	out, got := lintel(t, args...)
	if got != code {
		t.Errorf("%q ends with %d, want %d:\n%s", args, got, code, out)
	}
	for _, text := range holds {
		if !strings.Contains(out, text) {
			t.Errorf("%q does not say %q:\n%s", args, text, out)
		}
	}
}

// makeSavepoint makes one of a job with a pipeline, and returns its URI and the path of its only file.
func makeSavepoint(t *testing.T, dir string, p *pipepb.Pipeline) (uri, file string) {
	t.Helper()
	described, err := describePipeline(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("what a task keeps")
	f := protocol.File{
		FileID: protocol.FileID{Epoch: 7, Generation: 2}, Size: int64(len(content)),
		CRC32C: crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli)),
	}
	m := &protocol.Manifest{
		Epoch: 7, Generation: 2, Savepoint: true, Taken: 1_767_000_000_000, KeyGroups: keygroup.DefaultMax,
		Job: protocol.Job{ID: "words-1", Name: "words"}, Pipeline: described, Files: []protocol.File{f},
		Tasks: []protocol.Task{
			{Stage: "Impulse", Of: 1, Ended: true},
			{Stage: "Group", Of: 1, EndGroup: keygroup.DefaultMax, Parts: []protocol.Part{
				{Kind: protocol.State, EndGroup: keygroup.DefaultMax, Span: protocol.Span{Length: f.Size}}}},
		},
	}
	store, err := filestore.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for name, content := range map[string][]byte{f.Name(): content, protocol.SavepointManifest: m.Encode()} {
		if err := store.Create(t.Context(), name, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := checkpointing.ReadSavepoint(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	return "file://" + dir, filepath.Join(dir, filepath.FromSlash(f.Name()))
}

func TestSavepointsWhereTheyLie(t *testing.T) {
	p, err := readPipeline("../../portable/testdata/pipelines/python_stateful.pb", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	uri, file := makeSavepoint(t, filepath.Join(dir, "words", "first"), p)
	wantLintel(t, 0, []string{"jobs", "savepoint", "list", "file://" + dir}, "words-1", uri, "2025-12-29T09:20:00Z")
	wantLintel(t, 0, []string{"jobs", "savepoint", "list", uri, "-o", "json"}, `"uri": "`+uri+`"`)
	wantLintel(t, 0, []string{"jobs", "savepoint", "inspect", uri}, "words-1 (words)", "epoch 7", "17 bytes in 1 files", "Group, 1 tasks", "state      17 bytes", "1 of them ended", "states ")
	wantLintel(t, 0, []string{"jobs", "savepoint", "inspect", uri, "--output=json"}, `"key_groups": 1024`, `"state": 17`)
	wantLintel(t, 0, []string{"jobs", "savepoint", "verify", uri}, "is whole")

	if err := os.WriteFile(file, []byte("what a task kept!"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantLintel(t, exitFailure, []string{"jobs", "savepoint", "verify", uri}, "checksum", filepath.Base(file))
	wantLintel(t, 0, []string{"jobs", "savepoint", "delete", uri}, "is deleted")
	for _, command := range []string{"inspect", "verify", "delete"} {
		wantLintel(t, exitNotFound, []string{"jobs", "savepoint", command, uri}, "no savepoint at "+uri)
		wantLintel(t, exitNotFound, []string{"jobs", "savepoint", command, uri + "/nowhere"}, "no savepoint")
		wantLintel(t, exitUsage, []string{"jobs", "savepoint", command, "words"}, "gs://BUCKET/FOLDER")
	}
	if out, _ := lintel(t, "jobs", "savepoint", "list", "file://"+dir); strings.Contains(out, "words-1") {
		t.Errorf("it is listed still:\n%s", out)
	}
}

// Files of a job's checkpoints have names like those of savepoints.
func TestCheckpointsAreNoSavepoints(t *testing.T) {
	dir := t.TempDir()
	store, err := filestore.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	id := protocol.FileID{Epoch: 1, Generation: 1}
	for _, name := range []string{protocol.GenerationName(1), protocol.ClaimName(1), protocol.ManifestName(1), id.Name()} {
		if err := store.Create(t.Context(), name, strings.NewReader("of a job")); err != nil {
			t.Fatal(err)
		}
	}
	wantLintel(t, exitNotFound, []string{"jobs", "savepoint", "delete", "file://" + dir})
	if _, err := store.Stat(t.Context(), id.Name()); err != nil {
		t.Error(err)
	}
}

func TestUpdatesAreChecked(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	write := func(name, pipeline string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(pipeline), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	same := write("same.json", impulse)
	other := write("other.json", strings.Replace(impulse, `"uniqueName": "Impulse"`, `"uniqueName": "Begin"`, 1))

	s, err := startServer(serverConfig{bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stopWithin(patience)
	p := &pipepb.Pipeline{}
	if err := protojson.Unmarshal([]byte(impulse), p); err != nil {
		t.Fatal(err)
	}
	prepared, err := s.service.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: p, JobName: "old"})
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := makeSavepoint(t, filepath.Join(dir, "savepoint"), p)
	for _, old := range []string{prepared.GetPreparationId(), uri} {
		check := func(args ...string) []string {
			return append([]string{"jobs", "check-update", "--endpoint", s.jobAddress, old}, args...)
		}
		wantLintel(t, 0, check(same), "kept: Impulse")
		wantLintel(t, exitFailure, check(other), "needs a name mapping: Impulse", "Begin", "[blocks]", "stand in its way")
		wantLintel(t, exitFailure, check(other, "-o", "json"), `"blocks": true`)
		wantLintel(t, 0, check(other, "--transform-name-mapping", `{"Impulse": "Begin"}`), "kept: Begin (was Impulse)")
		wantLintel(t, 0, check(other, "--allow-dropped-state", "Impulse"), "as allowed")
		wantLintel(t, exitUsage, check(other, "--transform-name-mapping", "Impulse=Begin"), "want an object")
		wantLintel(t, exitNotFound, check(filepath.Join(dir, "nothing.pb")))
	}
	wantLintel(t, exitNotFound, []string{"jobs", "check-update", "--endpoint", s.jobAddress, "nobody", same}, "nobody")
}
