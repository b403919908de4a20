package urns

// Environments (beam_runner_api.proto, StandardEnvironments).
const (
	EnvironmentDocker   = "beam:env:docker:v1"
	EnvironmentProcess  = "beam:env:process:v1"
	EnvironmentExternal = "beam:env:external:v1" // LOOPBACK too
	EnvironmentDefault  = "beam:env:default:v1"
	EnvironmentAnyOf    = "beam:env:anyof:v1"
)

// Resource hints of an environment (StandardResourceHints).
const (
	HintAccelerator               = "beam:resources:accelerator:v1"
	HintMinRAMBytes               = "beam:resources:min_ram_bytes:v1"
	HintCPUCount                  = "beam:resources:cpu_count:v1"
	HintMaxActiveBundlesPerWorker = "beam:resources:max_active_bundles_per_worker:v1"
)
