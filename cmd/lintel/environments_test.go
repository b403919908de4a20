package main

import (
	"bytes"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/docker"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

const (
	javaImage = "apache/beam_java11_sdk:2.77.0"
	goBase    = "beam:version:sdk_base:go:apache/beam_go_sdk:2.77.0"
)

// crossLanguage is a pipeline of a Go and a Java function, with an environment that none uses.
func crossLanguage(t *testing.T) *pipepb.Pipeline {
	t.Helper()
	p := portabletest.New()
	p.Environment("go", "localhost:1", goBase)
	p.Environment("java", "localhost:2")
	p.Environment("unused", "localhost:3")
	payload, err := proto.Marshal(&pipepb.DockerPayload{ContainerImage: javaImage})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"java", "unused"} {
		env := p.Proto.Components.Environments[id]
		env.Urn, env.Payload = urns.EnvironmentDocker, payload
	}
	in := p.Impulse("impulse")
	coder := p.Coder("bytes", urns.CoderBytes)
	p.ParDo("java", "java", coder, p.ParDo("go", "go", coder, in))
	return p.Proto
}

func TestPlanResolvesEnvironments(t *testing.T) {
	noDocker := func(env *pipepb.Environment) error {
		if env.GetUrn() == environment.URNDocker {
			return fault.New(fault.Unsupported, "no engine")
		}
		return nil
	}
	for name, c := range map[string]struct {
		server, option string
		java           string // URN in the plan, empty if refused
		class          fault.Class
		holds          []string
	}{
		"as asked":                {java: "", class: fault.Unsupported, holds: []string{"environment java: no engine", "--environments 'java="}},
		"by the server":           {server: "java=PROCESS:boot", java: environment.URNProcess},
		"by the job":              {option: "java=EXTERNAL:a:1", java: environment.URNExternal},
		"by image":                {server: javaImage + "=PROCESS:boot", java: environment.URNProcess},
		"the job over the server": {server: "java=PROCESS:boot", option: "java=EXTERNAL:a:1", java: environment.URNExternal},
		"not by the server":       {server: "python=PROCESS:boot", class: fault.Unsupported, holds: []string{"no engine"}},
		"a job's mistake":         {server: "java=PROCESS:boot", option: "jav=PROCESS:boot", class: fault.Invalid, holds: []string{"called jav", "java or " + javaImage, "go or"}},
		"a job's garbage":         {option: "java", class: fault.Invalid, holds: []string{"pipeline option environments", "WHICH=TYPE:CONFIG"}},
		"refused though wanted":   {option: "go=DOCKER", server: "java=PROCESS:boot", class: fault.Unsupported, holds: []string{"environment go: no engine"}},
	} {
		t.Run(name, func(t *testing.T) {
			overrides, err := environment.ParseOverrides(c.server)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			pl := planner{check: noDocker, overrides: overrides, log: slog.New(slog.NewTextHandler(&log, nil))}
			pipeline := crossLanguage(t)
			before := proto.Clone(pipeline)
			made, err := pl.plan(t.Context(), pipeline, &options.Options{Environments: c.option}, func(bool) (bool, error) { return false, nil })
			if !proto.Equal(before, pipeline) {
				t.Error("the pipeline has changed")
			}
			if err != nil {
				if c.java != "" || fault.ClassOf(err) != c.class {
					t.Fatalf("refused: %v (class %v); want class %v", err, fault.ClassOf(err), c.class)
				}
				for _, h := range c.holds {
					if !strings.Contains(err.Error(), h) {
						t.Errorf("refused: %v; want it to hold %q", err, h)
					}
				}
				return
			}
			got := map[string]string{}
			for id, env := range made.Environments {
				got[id] = env.GetUrn()
			}
			if diff := cmp.Diff(map[string]string{"go": environment.URNExternal, "java": c.java}, got); diff != "" {
				t.Errorf("environments of the plan (-want +got):\n%s", diff)
			}
			for _, s := range made.Stages {
				if s.Exec == nil {
					continue
				}
				for id, env := range s.Exec.Descriptor.GetEnvironments() {
					if want, ok := got[id]; ok && env.GetUrn() != want {
						t.Errorf("stage %s tells of %s in environment %s", s.Name, env.GetUrn(), id)
					}
				}
			}
			if !strings.Contains(log.String(), "environment=java") || strings.Contains(log.String(), "environment=unused") {
				t.Errorf("the log is %q; want the choice for java and no other", log.String())
			}
		})
	}
}

// environmentsOf parses flags of lintel dev.
func environmentsOf(t *testing.T, bind string, args ...string) (environmentConfig, error) {
	t.Helper()
	cmd := &cobra.Command{}
	f := addEnvironmentFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return environmentConfig{}, err
	}
	return f.config(bind)
}

func TestEnvironmentFlags(t *testing.T) {
	t.Setenv("LINTEL_TEST_SECRET", "hush")
	c, err := environmentsOf(t, "0.0.0.0",
		"--environments=java=PROCESS:a,go=DOCKER", "--environments", `python=EXTERNAL:{"url":"b:1"}`,
		"--advertised-host=10.0.0.1", "--docker-pull=never", "--docker-network=bridge",
		"--docker-env=A=b=c,d", "--docker-env=LINTEL_TEST_SECRET", "--docker-env=EMPTY=",
		"--docker-mount=/a:/b:ro", "--docker-mount=v:/c", "--docker-label=team=x y", "--docker-label=bare")
	if err != nil {
		t.Fatal(err)
	}
	want := docker.Config{
		Pull: docker.PullNever, Network: "bridge", Mounts: []string{"/a:/b:ro", "v:/c"},
		Env:    map[string]string{"A": "b=c,d", "LINTEL_TEST_SECRET": "hush", "EMPTY": ""},
		Labels: map[string]string{"team": "x y", "bare": ""},
	}
	if diff := cmp.Diff(want, c.docker, cmpopts.IgnoreFields(docker.Config{}, "Logger")); diff != "" {
		t.Errorf("docker (-want +got):\n%s", diff)
	}
	if len(c.overrides) != 3 || c.advertisedHost != "10.0.0.1" {
		t.Errorf("%d overrides, advertised host %s", len(c.overrides), c.advertisedHost)
	}
}

func TestEnvironmentFlagsRefuse(t *testing.T) {
	for args, holds := range map[string]string{
		"--environments=java":                             "WHICH=TYPE:CONFIG",
		"--environments=a=DOCKER --environments=a=DOCKER": "given twice",
		"--docker-pull=sometimes":                         "want one of if-missing, always, never",
		"--docker-env=LINTEL_TEST_NOT_SET":                "no such environment variable",
		"--docker-mount=/a":                               "SOURCE:/TARGET",
		"--docker-label=lintel=x":                         "Lintel's own",
		"--docker-network=bridge":                         "--advertised-host",
		"--docker-network=bridge --advertised-host=::1":   "--advertised-host",
	} {
		if _, err := environmentsOf(t, "127.0.0.1", strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), holds) {
			t.Errorf("%s: %v; want an error with %q", args, err, holds)
		}
	}
}

func TestInstanceIsThatOfTheDataDirectory(t *testing.T) {
	dir := t.TempDir()
	first, fresh, err := instance(dir)
	if err != nil || !fresh {
		t.Fatalf("%v, fresh %v", err, fresh)
	}
	if again, fresh, err := instance(dir); again != first || fresh || err != nil {
		t.Errorf("%s, fresh %v, %v; want %s as before", again, fresh, err, first)
	}
	if err := os.WriteFile(filepath.Join(dir, "instance"), []byte("lin"), 0o600); err != nil { // half written
		t.Fatal(err)
	}
	if other, fresh, err := instance(dir); other == first || len(other) != len(first) || !fresh || err != nil {
		t.Errorf("%s, fresh %v, %v; want a new one", other, fresh, err)
	}
}

func TestAllKindsOfEnvironmentsHaveALauncher(t *testing.T) {
	byURN, err := launchers(serverConfig{dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{environment.URNDocker, environment.URNExternal, environment.URNProcess}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(byURN))); diff != "" {
		t.Errorf("launchers (-want +got):\n%s", diff)
	}
}
