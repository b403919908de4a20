// Package environment starts and stops SDK workers: the processes that hold the user's code and
// speak the Fn API with us. A Launcher stands behind each environment URN of the Beam model
// (beam_runner_api.proto, StandardEnvironments); Set picks one, Registry remembers what lives.
package environment

import (
	"context"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// URNs of the environments of the Beam model that have something to launch.
const (
	URNDocker   = "beam:env:docker:v1"
	URNProcess  = "beam:env:process:v1"
	URNExternal = "beam:env:external:v1"
	URNAnyOf    = "beam:env:anyof:v1"
)

// Endpoints are the addresses, as host:port, at which a worker reaches the Fn API services.
// They must be reachable from where the worker runs. Status may be empty: it reaches workers by
// ProvisionService only.
type Endpoints struct {
	Control, Logging, Artifact, Provision, Status string
}

// Request tells a launcher which worker to start.
type Request struct {
	// WorkerID is what the worker calls itself in the worker_id header of each of its streams.
	WorkerID string
	// Environment is the pipeline's; launchers read its URN and payload and keep no reference.
	Environment *pipepb.Environment
	Endpoints   Endpoints
	// Params are handed to external worker pools, over those of the environment's payload.
	Params map[string]string
	// Output, if not nil, is given each line that the worker prints, standard output and error
	// together, without line end and at most a few KiB long. Calls come one at a time, the last
	// before Done is closed; one that blocks makes the worker block at one of its next lines.
	Output func(line string)
}

// Arguments returns what the worker's program is started with: those of Beam's container contract.
func (r *Request) Arguments() []string {
	return []string{
		"--id=" + r.WorkerID,
		"--logging_endpoint=" + r.Endpoints.Logging,
		"--artifact_endpoint=" + r.Endpoints.Artifact,
		"--provision_endpoint=" + r.Endpoints.Provision,
		"--control_endpoint=" + r.Endpoints.Control,
	}
}

// Worker is a started SDK worker. All methods may be called concurrently.
type Worker interface {
	// Done is closed when the worker is known to be gone, with all processes that it started.
	// Launchers that cannot know close it only once the worker has been stopped.
	Done() <-chan struct{}
	// Err says why the worker is gone: nil before Done is closed and if it was stopped by us,
	// otherwise an error of class Retryable that holds the last lines of its output.
	Err() error
	// Stop ends the worker and returns when it and all its children are gone as far as the
	// launcher can know. It is idempotent; whoever launched a worker calls it even after Done.
	// If ctx ends before, the worker gets no more time to end by itself; an error means that
	// something may still run.
	Stop(ctx context.Context) error
}

// Launcher starts workers of one kind of environment.
type Launcher interface {
	// Launch starts a worker. It returns when the start is under way, not when the worker has
	// connected. ctx bounds the call only, never the life of the worker. If Launch fails,
	// nothing of the worker is left running.
	Launch(ctx context.Context, r Request) (Worker, error)
}

// Checker is implemented by launchers that can tell in advance what they cannot start.
type Checker interface {
	// Check returns an error of class Unsupported or Invalid if Launch could not succeed with
	// this environment whatever else happens. It starts nothing, and asks at most, and for a few
	// seconds, what would have to start the worker.
	Check(env *pipepb.Environment) error
}
