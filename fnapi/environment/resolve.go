package environment

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// Resolution says in what each environment of a pipeline is to be started.
type Resolution struct {
	// Environments are the pipeline's, by the same ids: replaced where an override says so, and with
	// one alternative in place of several. What cannot be started stays as it was.
	Environments map[string]*pipepb.Environment
	// Choices tell, in words and by the ids of environments, where that differs from the pipeline.
	Choices map[string]string
	// refused says why environments cannot be started.
	refused map[string]error
}

// preference is the order in which alternatives are tried: first a worker pool that somebody has
// started for this pipeline, last an image that may have to be fetched.
var preference = map[string]int{URNExternal: 1, URNProcess: 2, URNDocker: 3}

// Resolve decides about each environment of a pipeline on its own. The first of the overrides that
// is about one replaces it. Of an anyof environment without override it takes the first alternative
// that check accepts, in the order EXTERNAL, PROCESS, DOCKER, and among equals in that of the
// payload. Nothing else is ever put in place of what a pipeline or an override says: it is refused,
// see Err. Resolve changes nothing of envs, which the result may share messages with; it does no
// more than check does.
func Resolve(envs map[string]*pipepb.Environment, check func(*pipepb.Environment) error, overrides ...Overrides) *Resolution {
	r := &Resolution{
		Environments: make(map[string]*pipepb.Environment, len(envs)),
		Choices:      map[string]string{},
		refused:      map[string]error{},
	}
	for id, env := range envs {
		got, choice, err := resolve(id, env, check, overrides)
		if err != nil {
			r.Environments[id], r.refused[id] = env, err
			continue
		}
		r.Environments[id] = got
		if choice != "" {
			r.Choices[id] = choice
		}
	}
	return r
}

func resolve(id string, env *pipepb.Environment, check func(*pipepb.Environment) error, overrides []Overrides) (got *pipepb.Environment, choice string, err error) {
	alternatives, err := alternativesOf(env)
	if err != nil {
		return nil, "", err
	}
	for _, set := range overrides {
		o := set.of(id, env)
		if o == nil {
			continue
		}
		if len(alternatives) > 0 { // its SDK's capabilities and files are there
			env = alternatives[0]
		}
		if got, err = o.apply(env); err == nil {
			err = check(got)
		}
		return got, fmt.Sprintf("%s, as environments says of %s", describe(got), o.key), err
	}
	if env.GetUrn() != URNAnyOf {
		return env, "", check(env)
	}
	var reasons []string
	for _, a := range alternatives {
		err := check(a)
		if err == nil {
			return a, fmt.Sprintf("%s, of %d alternatives", describe(a), len(alternatives)), nil
		}
		reasons = append(reasons, err.Error())
	}
	return nil, "", fault.New(fault.Unsupported, "environment %s: none of its %d alternatives can be started: [%s]",
		URNAnyOf, len(alternatives), strings.Join(reasons, "; "))
}

// alternativesOf returns the alternatives of an anyof environment, best first, and nothing of
// others. What an alternative does not say of itself, the environment says for it.
func alternativesOf(env *pipepb.Environment) ([]*pipepb.Environment, error) {
	if env.GetUrn() != URNAnyOf {
		return nil, nil
	}
	var payload pipepb.AnyOfEnvironmentPayload
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return nil, fault.New(fault.Invalid, "environment %s: payload: %w", URNAnyOf, err)
	}
	all := payload.GetEnvironments()
	for _, a := range all {
		if len(a.GetCapabilities()) == 0 {
			a.Capabilities = env.GetCapabilities()
		}
		if len(a.GetDependencies()) == 0 {
			a.Dependencies = env.GetDependencies()
		}
		if len(a.GetResourceHints()) == 0 {
			a.ResourceHints = env.GetResourceHints()
		}
	}
	rank := func(e *pipepb.Environment) int { return cmp.Or(preference[e.GetUrn()], len(preference)+1) }
	slices.SortStableFunc(all, func(a, b *pipepb.Environment) int { return cmp.Compare(rank(a), rank(b)) })
	return all, nil
}

// Err returns an error if one of the environments that are used, by their ids, cannot be started.
// It names each and what to do, and has the class of the first.
func (r *Resolution) Err(used iter.Seq[string]) error {
	var class fault.Class
	var reasons []string
	for _, id := range slices.Sorted(used) {
		err := r.refused[id]
		if err == nil {
			continue
		}
		if len(reasons) == 0 {
			class = fault.ClassOf(err)
		}
		env := r.Environments[id]
		key := cmp.Or(sdkOf(env, imagesOf(env)), untagged(ownImage(env)), id)
		reasons = append(reasons, fmt.Sprintf("environment %s: %v (or have it started otherwise, by --environments '%s=TYPE:CONFIG')", id, err, key))
	}
	if len(reasons) == 0 {
		return nil
	}
	return fault.New(class, "%s", strings.Join(reasons, "\n"))
}
