// Package docker starts workers as containers of a Docker engine, for beam:env:docker:v1
// environments. A container never outlives the process that launched it for long: while there are
// containers, a guard process waits for our end and then removes them (see guard.go); what it
// could not remove, because the machine went down with us, Sweep does at the next start.
package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/internal/fault"
)

// Labels of our containers.
const (
	instanceLabel = "lintel"        // the Instance that started it
	workerLabel   = "lintel.worker" // the worker's id
)

// HostNetwork is the network of containers that share that of the machine.
const HostNetwork = "host"

// ErrNoEngine is in errors whose reason is that no engine answers.
var ErrNoEngine = errors.New("no Docker engine answers")

// checkTimeout is how long Check waits for the engine.
const checkTimeout = 5 * time.Second

// PullPolicy says when an image is fetched from its registry.
type PullPolicy string

// Pull policies.
const (
	PullAlways    PullPolicy = "always"     // before each start of a worker, in case it has changed
	PullIfMissing PullPolicy = "if-missing" // if the engine does not have it
	PullNever     PullPolicy = "never"      // images the engine does not have are refused
)

// Config is the configuration of a Launcher; its zero value is usable.
type Config struct {
	// Host is the address of the engine, as unix:///run/docker.sock or tcp://host:port. If it is
	// empty, the environment variable DOCKER_HOST has it, or the engine is at the system's usual
	// place. DOCKER_TLS_VERIFY, DOCKER_CERT_PATH and DOCKER_API_VERSION are honoured too.
	Host string
	// Pull is the policy for images; PullIfMissing if empty.
	Pull PullPolicy
	// Network is the containers' network; HostNetwork if empty, in which they reach endpoints at
	// 127.0.0.1. In all others endpoints must have addresses that they can reach.
	Network string
	// Instance tells our containers from those of other servers on the same engine: it is the value
	// of their label "lintel". One that stays the same over restarts lets Sweep find what an earlier
	// process has left; if it is empty, a new one is made.
	Instance string
	// Env are environment variables of all containers. Their values appear in no log and no error.
	Env map[string]string
	// Mounts are what the containers see of the machine: SOURCE:TARGET or SOURCE:TARGET:ro, where
	// SOURCE is an absolute path that exists on the engine's machine, or else the name of a volume.
	Mounts []string
	// Labels are further labels of all containers.
	Labels map[string]string
	// Grace is how long a worker may take to end after SIGTERM before it is killed, to the second;
	// 5 s if zero.
	Grace time.Duration
	// Logger is told of starts, pulls and ends; nothing is logged if nil.
	Logger *slog.Logger
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	invalid := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "docker environments: "+format, args...)
	}
	if !slices.Contains([]PullPolicy{"", PullAlways, PullIfMissing, PullNever}, c.Pull) {
		return invalid("pull policy %q: want %s, %s or %s", c.Pull, PullAlways, PullIfMissing, PullNever)
	}
	if c.Grace < 0 {
		return invalid("grace %v must not be negative", c.Grace)
	}
	if c.Host != "" {
		if _, err := client.ParseHostURL(c.Host); err != nil {
			return invalid("engine %q: %w", c.Host, err)
		}
	}
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return invalid("%q cannot be set as an environment variable", name)
		}
	}
	for label := range c.Labels {
		if label == "" || label == instanceLabel || label == workerLabel {
			return invalid("label %q is empty or one of Lintel's own", label)
		}
	}
	for _, m := range c.Mounts {
		if _, err := parseMount(m); err != nil {
			return invalid("%w", err)
		}
	}
	return nil
}

func parseMount(text string) (mount.Mount, error) {
	parts := strings.Split(text, ":")
	readOnly := len(parts) == 3 && parts[2] == "ro"
	if len(parts) != 2 && !readOnly || parts[0] == "" || !strings.HasPrefix(parts[1], "/") {
		return mount.Mount{}, fmt.Errorf("mount %q: want SOURCE:/TARGET or SOURCE:/TARGET:ro", text)
	}
	m := mount.Mount{Type: mount.TypeVolume, Source: parts[0], Target: parts[1], ReadOnly: readOnly}
	if strings.HasPrefix(m.Source, "/") {
		m.Type = mount.TypeBind
	}
	return m, nil
}

// Launcher starts workers as containers. The program it is in must call RunGuard first of all.
type Launcher struct {
	config Config // with its defaults
	mounts []mount.Mount
	guard  guard
	log    *slog.Logger
}

var (
	_ environment.Launcher = (*Launcher)(nil)
	_ environment.Checker  = (*Launcher)(nil)
)

// New returns a launcher. It does not look for the engine.
func New(c Config) (*Launcher, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.Pull = cmp.Or(c.Pull, PullIfMissing)
	c.Network = cmp.Or(c.Network, HostNetwork)
	c.Instance = cmp.Or(c.Instance, uuid.NewString())
	c.Grace = cmp.Or(c.Grace, 5*time.Second)
	c.Env, c.Labels = maps.Clone(c.Env), maps.Clone(c.Labels)
	l := &Launcher{config: c, log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler))}
	l.guard = guard{host: c.Host, instance: c.Instance}
	for _, text := range c.Mounts {
		m, err := parseMount(text)
		if err != nil {
			return nil, err // Validate has seen it
		}
		l.mounts = append(l.mounts, m)
	}
	return l, nil
}

// Check implements environment.Checker. It refuses what no image could be named by, everything
// if no engine answers, and images that the engine does not have if they are never pulled.
func (l *Launcher) Check(env *pipepb.Environment) error {
	ref, err := imageOf(env)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	engine, err := connect(ctx, l.config.Host)
	if err != nil {
		return fault.New(fault.Unsupported, "environment %s (image %v): %w; start a Docker engine, or set DOCKER_HOST to where one is",
			env.GetUrn(), ref, err)
	}
	defer engine.Close()
	if l.config.Pull == PullNever {
		return l.mustHave(ctx, engine, ref)
	}
	return nil
}

// imageOf reads an environment's payload.
func imageOf(env *pipepb.Environment) (image, error) {
	p := &pipepb.DockerPayload{}
	if err := proto.Unmarshal(env.GetPayload(), p); err != nil {
		return image{}, fault.New(fault.Invalid, "environment %s: payload: %w", env.GetUrn(), err)
	}
	if p.GetContainerImage() == "" {
		return image{}, fault.New(fault.Invalid, "environment %s names no image: set --environment_config to one", env.GetUrn())
	}
	named, err := reference.ParseNormalizedNamed(p.GetContainerImage())
	if err != nil {
		return image{}, fault.New(fault.Invalid, "environment %s: image %q: %w", env.GetUrn(), p.GetContainerImage(), err)
	}
	return image{p.GetContainerImage(), named}, nil
}

// connect returns a client of the engine at host, see Config.Host, once that has answered.
func connect(ctx context.Context, host string) (*client.Client, error) {
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if host != "" {
		opts = append(opts, client.WithHost(host))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("the address of the Docker engine: %w", err)
	}
	if _, err := c.Ping(ctx); err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrNoEngine, c.DaemonHost(), err)
	}
	return c, nil
}

// Launch implements environment.Launcher. It pulls the image if it has to, which takes as long as
// it takes. The image's entry point gets the arguments of Beam's container contract.
func (l *Launcher) Launch(ctx context.Context, r environment.Request) (environment.Worker, error) {
	ref, err := imageOf(r.Environment)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("worker %s (image %v)", r.WorkerID, ref)
	if err := l.reachable(r.Endpoints); err != nil {
		return nil, fault.New(fault.Unsupported, "start of %s: %w", name, err)
	}
	engine, err := connect(ctx, l.config.Host)
	if err != nil {
		return nil, fault.New(fault.Retryable, "start of %s: %w", name, err)
	}
	w := newWorker(name, l, engine, r)
	if err := w.start(ctx, ref, r); err != nil {
		return nil, fault.New(fault.ClassOf(err), "start of %s: %w", name, err)
	}
	return w, nil
}

// reachable tells whether containers can reach endpoints as far as one can see from here.
func (l *Launcher) reachable(e environment.Endpoints) error {
	if l.config.Network == HostNetwork {
		return nil
	}
	for _, at := range []string{e.Control, e.Logging, e.Artifact, e.Provision} {
		host, _, err := net.SplitHostPort(at)
		if ip := net.ParseIP(host); err == nil && (host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())) {
			return fmt.Errorf("containers in the network %q cannot reach %s: the server must listen on, and advertise, "+
				"an address that they reach, or run them in the network %q", l.config.Network, at, HostNetwork)
		}
	}
	return nil
}
