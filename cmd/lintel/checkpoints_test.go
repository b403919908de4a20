package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/portable"
)

// Pipelines are planned for the checkpoints that their jobs take, and only those.
func TestPlansForCheckpoints(t *testing.T) {
	p, err := readPipeline("../../portable/testdata/pipelines/python_wordcount.pb", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, takes := range []bool{true, false} {
		asked := 0
		made, err := compileFor(t.Context(), p, portable.Options{}, func(bounded bool) (bool, error) {
			if asked++; !bounded {
				t.Error("the words of a file are not bounded")
			}
			return takes, nil
		})
		if err != nil || asked != 1 || made.Snapshots() != takes {
			t.Errorf("takes checkpoints: %t; asked %d times, %v\n%s", takes, asked, err, made.Text())
		}
	}
	refused := errors.New("refused")
	if _, err := compileFor(t.Context(), p, portable.Options{}, func(bool) (bool, error) { return true, refused }); !errors.Is(err, refused) {
		t.Errorf("%v, want what was refused", err)
	}
}

func TestURIsOfStores(t *testing.T) {
	for uri, want := range map[string]storeURI{
		"file:///var/lintel":          {scheme: "file", path: "/var/lintel"},
		"file://localhost/var/../tmp": {scheme: "file", path: "/tmp"},
		"file:///with%20space":        {scheme: "file", path: "/with space"},
		"gs://bucket":                 {scheme: "gs", bucket: "bucket"},
		"gs://bucket/":                {scheme: "gs", bucket: "bucket"},
		"gs://bucket/a/b/":            {scheme: "gs", bucket: "bucket", path: "a/b"},
	} {
		if got, err := parseStore(uri); err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(storeURI{})) {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
	for _, uri := range []string{
		"", "/var/lintel", "var", "file:", "file://", "file://host/a", "file:relative", "gs://", "gs:///a", "gs://bucket/a//b", "gs://bucket/../b",
		"gs://bucket:1/a", "gs://user@bucket/a", "s3://bucket/a", "file:///a?b", "file:///a#b", "%",
	} {
		if got, err := parseStore(uri); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%q: %+v, %v; want a fault.Invalid", uri, got, err)
		}
	}
}

// Who submits a job has the server read and write only where its operator allows it.
func TestSavepointsAreBelowTheirFolders(t *testing.T) {
	dir := t.TempDir()
	data := t.TempDir()
	c := checkpointConfig{savepoints: []string{"gs://bucket/points", "gs://whole", "file://" + dir}}
	folders, err := c.folders(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{"file://" + dir + "/a", "file://" + dir + "/a/b", "file://" + data + "/savepoints/a"} {
		s, err := folders.open(t.Context(), uri)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, uri := range []string{
		"file://" + dir, "file://" + dir + "/", "file://" + dir + "/../other", "file://" + dir + "x/a", "file:///", "a",
		"gs://bucket/points", "gs://bucket/pointsx/a", "gs://bucket/a", "gs://other/points/a", "gs://whole",
		"file://" + data + "/checkpoints/a", "file://" + data + "/savepoints",
	} {
		if _, err := folders.place("job-1", uri, time.Now()); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%s is a place for a savepoint: %v", uri, err)
		}
		if s, err := folders.open(t.Context(), uri); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%s: %v, %v; want a fault.Invalid", uri, s, err)
		}
	}
	for uri, in := range map[string]string{"gs://bucket/points/a": "gs://bucket/points", "gs://whole/a": "gs://whole", "file:///a": "file:///"} {
		s, err := parseStore(uri)
		within, err2 := parseStore(in)
		if err != nil || err2 != nil || !s.below(within) {
			t.Errorf("%s is not below %s", uri, in)
		}
	}
}

func TestPlacesOfSavepoints(t *testing.T) {
	at := time.Date(2026, 11, 22, 6, 7, 8, 90_000_000, time.UTC)
	for _, c := range []struct{ given, want string }{
		{"gs://bucket/points/", "gs://bucket/points/job-1/20261122T060708.090Z"},
		{"", "file:///data%20dir/savepoints/job-1/20261122T060708.090Z"},
	} {
		var config checkpointConfig
		if c.given != "" {
			config.savepoints = []string{c.given}
		}
		folders, err := config.folders("/data dir")
		if err != nil {
			t.Fatal(err)
		}
		uri, err := folders.place("job-1", "", at)
		if err != nil || uri != c.want {
			t.Errorf("%s, %v; want %s", uri, err, c.want)
		}
		if again, err := folders.place("job-1", uri, at); err != nil || again != uri {
			t.Errorf("%s is no place for a savepoint: %v", uri, err)
		}
	}
}

func TestExistingFoldersAreNotMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "savepoint")
	if _, err := openExisting(t.Context(), "file://"+dir); !errors.Is(err, checkpointing.ErrAbsent) {
		t.Errorf("%v, want %v", err, checkpointing.ErrAbsent)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

// Servers take options of checkpoints, and have a folder for them.
func TestServersWithCheckpoints(t *testing.T) {
	testkit.Leaks(t)
	data, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "checkpoints")
	for uri, dir := range map[string]string{"": filepath.Join(data, "checkpoints"), "file://" + elsewhere: elsewhere} {
		s, err := startServer(serverConfig{
			bind: "127.0.0.1", dataDir: data, log: slog.New(slog.DiscardHandler), checkpoints: checkpointConfig{uri: uri},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := prepareWith(t, s.service.Prepare, map[string]any{"checkpoint_interval": "10s", "restart_attempts": 3.0}); err != nil {
			t.Errorf("checkpoints in %q: %v", uri, err)
		}
		s.stopWithin(patience)
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			t.Errorf("checkpoints in %q: %v", uri, err)
		}
	}
}

func TestFoldersOfCheckpointsThatCannotBe(t *testing.T) {
	testkit.Leaks(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := startServer(serverConfig{
		bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler), checkpoints: checkpointConfig{uri: "file://" + file},
	})
	if err == nil {
		s.stopWithin(patience)
		t.Error("a file is taken for a folder")
	}
}

func TestFlagsOfCheckpoints(t *testing.T) {
	fs := pflag.NewFlagSet("checkpoints", pflag.ContinueOnError)
	c := checkpointFlags(fs)
	if err := fs.Parse([]string{"--checkpoint-dir=s3://bucket"}); err != nil || c.check() == nil {
		t.Errorf("%+v: %v, %v", c, err, c.check())
	}
	fs = pflag.NewFlagSet("savepoints", pflag.ContinueOnError)
	c = checkpointFlags(fs)
	if err := fs.Parse([]string{"--savepoint-dir=file:///a", "--savepoint-dir=a"}); err != nil || len(c.savepoints) != 2 || c.check() == nil {
		t.Errorf("%+v: %v, %v", c, err, c.check())
	}
	fs = pflag.NewFlagSet("rates", pflag.ContinueOnError)
	c = checkpointFlags(fs)
	if got := c.uploads().BytesPerSecond; got != 0 {
		t.Errorf("%d bytes a second at most by default", got)
	}
	if err := fs.Parse([]string{"--checkpoint-upload-rate=2M"}); err != nil || c.check() != nil || c.uploads().BytesPerSecond != 2<<20 {
		t.Errorf("%+v: %v, %v", c, err, c.check())
	}
	if err := fs.Parse([]string{"--checkpoint-upload-rate=-1"}); err == nil {
		t.Error("a negative rate is taken")
	}
}
