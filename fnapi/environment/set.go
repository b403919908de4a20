package environment

import (
	"context"
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// Set is a Launcher that hands each environment to the launcher of its URN. Of an anyof
// environment it takes the first alternative, in the order of the payload, that can be started.
type Set struct {
	byURN map[string]Launcher
}

var (
	_ Launcher = (*Set)(nil)
	_ Checker  = (*Set)(nil)
)

// NewSet returns a Set of the launchers given; it keeps a copy of the map.
func NewSet(byURN map[string]Launcher) *Set {
	return &Set{maps.Clone(byURN)}
}

// Launch implements Launcher.
func (s *Set) Launch(ctx context.Context, r Request) (Worker, error) {
	l, env, err := s.resolve(r.Environment)
	if err != nil {
		return nil, err
	}
	r.Environment = env
	return l.Launch(ctx, r)
}

// Check implements Checker, for the Job API at Prepare. Of launchers that are Checkers it asks the
// one concerned; with others it looks at the URN only.
func (s *Set) Check(env *pipepb.Environment) error {
	_, _, err := s.resolve(env)
	return err
}

// resolve returns the environment that a worker is to be started in, and by whom.
func (s *Set) resolve(env *pipepb.Environment) (Launcher, *pipepb.Environment, error) {
	if env.GetUrn() != URNAnyOf {
		l, err := s.launcher(env)
		return l, env, err
	}
	var payload pipepb.AnyOfEnvironmentPayload
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return nil, nil, fault.New(fault.Invalid, "environment %s: payload: %w", URNAnyOf, err)
	}
	var reasons []string
	for _, e := range payload.GetEnvironments() {
		l, err := s.launcher(e)
		if err == nil {
			return l, e, nil
		}
		reasons = append(reasons, err.Error())
	}
	return nil, nil, fault.New(fault.Unsupported, "environment %s: none of its %d alternatives can be started: [%s]",
		URNAnyOf, len(reasons), strings.Join(reasons, "; "))
}

func (s *Set) launcher(env *pipepb.Environment) (Launcher, error) {
	l, ok := s.byURN[env.GetUrn()]
	if !ok {
		return nil, fault.New(fault.Unsupported, "environment %s cannot be started here; possible are: %s",
			describe(env), strings.Join(slices.Sorted(maps.Keys(s.byURN)), ", "))
	}
	if c, ok := l.(Checker); ok {
		if err := c.Check(env); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// describe names an environment that there is no launcher for as far as its author will know it.
func describe(env *pipepb.Environment) string {
	switch env.GetUrn() {
	case "":
		return "without URN"
	case URNDocker:
		var p pipepb.DockerPayload
		if proto.Unmarshal(env.GetPayload(), &p) == nil && p.GetContainerImage() != "" {
			return URNDocker + " (image " + p.GetContainerImage() + ")"
		}
	}
	return env.GetUrn()
}
