package environment

import (
	"context"
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
)

// Set is a Launcher that hands each environment to the launcher of its URN. Of an anyof environment
// Resolve has taken one alternative before.
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
	l, err := s.launcher(r.Environment)
	if err != nil {
		return nil, err
	}
	return l.Launch(ctx, r)
}

// Check implements Checker, for the Job API at Prepare. Of launchers that are Checkers it asks the
// one concerned; with others it looks at the URN only.
func (s *Set) Check(env *pipepb.Environment) error {
	l, err := s.launcher(env)
	if err != nil {
		return err
	}
	if c, ok := l.(Checker); ok {
		return c.Check(env)
	}
	return nil
}

// launcher returns the launcher of an environment's URN.
func (s *Set) launcher(env *pipepb.Environment) (Launcher, error) {
	l, ok := s.byURN[env.GetUrn()]
	if !ok {
		return nil, fault.New(fault.Unsupported, "environment %s cannot be started here; possible are: %s",
			describe(env), strings.Join(slices.Sorted(maps.Keys(s.byURN)), ", "))
	}
	return l, nil
}
