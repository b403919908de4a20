package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/docker"
	"github.com/lintelrun/lintel/fnapi/environment/external"
	"github.com/lintelrun/lintel/fnapi/environment/process"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/portable/plan"
)

// sweepTimeout is how long the start of a server waits for the removal of containers that a killed
// one has left.
const sweepTimeout = 5 * time.Second

// environmentConfig says how the environments of pipelines are started.
type environmentConfig struct {
	overrides environment.Overrides
	// advertisedHost is the host by which harnesses reach the server; empty: that it listens on.
	advertisedHost string
	docker         docker.Config
}

// environmentFlags are the flags of lintel dev for an environmentConfig.
type environmentFlags struct {
	overrides           overridesFlag
	advertisedHost      string
	pull                *choice
	network             string
	env, mounts, labels []string
}

func addEnvironmentFlags(cmd *cobra.Command) *environmentFlags {
	f := &environmentFlags{}
	fs := cmd.Flags()
	fs.Var(&f.overrides, "environments", "what workers are started in instead of what pipelines ask for: "+environment.OverridesSyntax)
	fs.StringVar(&f.advertisedHost, "advertised-host", "", "host by which workers reach this server, if it is another than that of --bind")
	f.pull = choiceFlag(cmd, "docker-pull", "", "when images of DOCKER environments are pulled",
		string(docker.PullIfMissing), string(docker.PullAlways), string(docker.PullNever))
	fs.StringVar(&f.network, "docker-network", docker.HostNetwork, "network of DOCKER environments; in others than the host's, workers reach only an --advertised-host")
	fs.StringArrayVar(&f.env, "docker-env", nil, "environment variable of DOCKER environments: NAME=VALUE, or NAME to hand on this server's; may be repeated")
	fs.StringArrayVar(&f.mounts, "docker-mount", nil, "what DOCKER environments see of the engine's machine: SOURCE:/TARGET or SOURCE:/TARGET:ro, where SOURCE is a path or a volume's name; may be repeated")
	fs.StringArrayVar(&f.labels, "docker-label", nil, "label of the containers of DOCKER environments: NAME=VALUE; may be repeated")
	return f
}

// config reads the flags. bind is the host that the server listens on.
func (f *environmentFlags) config(bind string) (environmentConfig, error) {
	c := environmentConfig{
		overrides: f.overrides.value, advertisedHost: f.advertisedHost,
		docker: docker.Config{Pull: docker.PullPolicy(f.pull.value), Network: f.network, Mounts: f.mounts, Env: map[string]string{}, Labels: map[string]string{}},
	}
	for _, text := range f.env {
		name, value, given := strings.Cut(text, "=")
		if !given {
			if value, given = os.LookupEnv(name); !given {
				return c, fmt.Errorf("--docker-env %s: this server has no such environment variable to hand on; want NAME=VALUE", name)
			}
		}
		c.docker.Env[name] = value
	}
	for _, text := range f.labels {
		name, value, _ := strings.Cut(text, "=")
		c.docker.Labels[name] = value
	}
	reached := f.advertisedHost
	if reached == "" {
		reached = bind
	}
	if f.network != docker.HostNetwork && isLoopback(reached) {
		return c, fmt.Errorf("--docker-network %s: containers there do not reach this server at %s; --bind it to an address that they reach, "+
			"and name that by --advertised-host", f.network, reached)
	}
	return c, c.docker.Validate()
}

// overridesFlag is a flag that may be repeated.
type overridesFlag struct {
	text  string
	value environment.Overrides
}

func (o *overridesFlag) String() string { return o.text }
func (o *overridesFlag) Type() string   { return "overrides" }
func (o *overridesFlag) Set(text string) (err error) {
	if o.text != "" {
		text = o.text + "," + text
	}
	o.value, err = environment.ParseOverrides(text)
	o.text = text
	return err
}

// launchers has a line for each kind of environment that we can start. spill is where processes
// get their working directories.
func launchers(c serverConfig, spill string) (map[string]environment.Launcher, error) {
	ext, err := external.New(external.Config{Logger: c.log})
	if err != nil {
		return nil, err
	}
	proc, err := process.New(process.Config{Dir: spill, Logger: c.log})
	if err != nil {
		return nil, err
	}
	containers, err := newDocker(c)
	if err != nil {
		return nil, err
	}
	return map[string]environment.Launcher{
		environment.URNExternal: ext, // LOOPBACK too
		environment.URNProcess:  proc,
		environment.URNDocker:   containers,
	}, nil
}

// newDocker removes what containers an earlier server with this data directory has left.
func newDocker(c serverConfig) (*docker.Launcher, error) {
	config := c.environments.docker
	config.Logger = c.log
	var fresh bool
	var err error
	if config.Instance, fresh, err = instance(c.dataDir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d, err := docker.New(config)
	if err != nil || fresh {
		return d, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), sweepTimeout)
	defer cancel()
	switch removed, err := d.Sweep(ctx); {
	case errors.Is(err, docker.ErrNoEngine):
		c.log.Debug("no containers of an earlier run looked for", "error", err)
	case err != nil:
		c.log.Warn("containers of an earlier run may be left", "label", "lintel="+config.Instance, "error", err)
	case removed > 0:
		c.log.Info("removed containers of an earlier run", "containers", removed)
	}
	return d, nil
}

// instance returns what tells this data directory from all others. It is fresh if it has just been
// made up.
func instance(dataDir string) (id string, fresh bool, err error) {
	path := filepath.Join(dataDir, "instance")
	b, err := os.ReadFile(path)
	if err == nil && uuid.Validate(strings.TrimSpace(string(b))) == nil {
		return strings.TrimSpace(string(b)), false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	id = uuid.NewString()
	return id, true, os.WriteFile(path, []byte(id+"\n"), 0o644)
}

// planner plans pipelines for the environments of a server.
type planner struct {
	// check says why an environment can't be started, if it can't.
	check     func(*pipepb.Environment) error
	overrides environment.Overrides // the server's
	log       *slog.Logger
}

// plan implements jobservice.Planner: it decides in what each environment is started, and refuses
// what can't be planned or uses an environment that can't be started. Takes tells, of a job whose input is
// bounded or not, whether it takes checkpoints, and refuses options.
func (pl *planner) plan(ctx context.Context, p *pipepb.Pipeline, o *options.Options, takes func(bounded bool) (bool, error)) (*plan.Plan, error) {
	asked := p.GetComponents().GetEnvironments()
	jobs, err := environment.ParseOverrides(o.Environments)
	if err != nil {
		return nil, fmt.Errorf("pipeline option %w", err)
	}
	if unused := jobs.Unused(asked); len(unused) > 0 {
		return nil, fault.New(fault.Invalid, "pipeline option environments: nothing in the pipeline is called %s; it has %s",
			strings.Join(unused, ", "), environment.Describe(asked))
	}
	resolved := environment.Resolve(asked, pl.check, jobs, pl.overrides)
	_, separate := o.Experiment("lintel_separate_stages")
	opts := portable.Options{SeparateStages: separate, OneTask: o.Parallelism == 1}
	made, err := compileFor(ctx, withEnvironments(p, resolved.Environments), opts, takes)
	if err != nil {
		return nil, err
	}
	if err := resolved.Err(maps.Keys(made.Environments)); err != nil {
		return nil, err
	}
	for id := range made.Environments {
		if choice, ok := resolved.Choices[id]; ok {
			pl.log.Info("environment resolved", "environment", id, "to", choice)
		}
	}
	return made, nil
}

// compileFor plans a pipeline for the checkpoints that its job takes. Whether its input is bounded only a plan says.
func compileFor(ctx context.Context, p *pipepb.Pipeline, opts portable.Options, takes func(bounded bool) (bool, error)) (*plan.Plan, error) {
	made, err := portable.Compile(ctx, p, opts)
	if err != nil {
		return nil, err
	}
	if opts.Checkpoints, err = takes(made.Bounded()); err != nil || !opts.Checkpoints {
		return made, err
	}
	return portable.Compile(ctx, p, opts)
}

// withEnvironments returns the pipeline with other environments; all else is shared with p.
func withEnvironments(p *pipepb.Pipeline, environments map[string]*pipepb.Environment) *pipepb.Pipeline {
	out, components := &pipepb.Pipeline{}, &pipepb.Components{}
	share(out, p)
	share(components, p.GetComponents())
	out.Components, components.Environments = components, environments
	return out
}

// share sets the fields of to as they are in from, without copies of what they hold.
func share(to, from proto.Message) {
	from.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		to.ProtoReflect().Set(field, value)
		return true
	})
}
