package urns

// Requirements of a pipeline (beam_runner_api.proto, StandardRequirements).
// One that is not understood must be rejected.
const (
	RequirementStateful           = "beam:requirement:pardo:stateful:v1"
	RequirementFinalization       = "beam:requirement:pardo:finalization:v1"
	RequirementStableInput        = "beam:requirement:pardo:stable_input:v1"
	RequirementTimeSortedInput    = "beam:requirement:pardo:time_sorted_input:v1"
	RequirementSplittableDoFn     = "beam:requirement:pardo:splittable_dofn:v1"
	RequirementOnWindowExpiration = "beam:requirement:pardo:on_window_expiration:v1"
)
