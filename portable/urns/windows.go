package urns

// Window functions (standard_window_fns.proto).
const (
	WindowFnGlobal  = "beam:window_fn:global_windows:v1"
	WindowFnFixed   = "beam:window_fn:fixed_windows:v1"
	WindowFnSliding = "beam:window_fn:sliding_windows:v1"
	WindowFnSession = "beam:window_fn:session_windows:v1"
)

// Window mapping functions that say what they do. Those of the Java and Python SDKs are
// serialized objects.
const (
	WindowMappingGlobal             = "beam:window_mapping_fn:global:v1" // of the TypeScript SDK, as the next two
	WindowMappingIdentity           = "beam:window_mapping_fn:identity:v1"
	WindowMappingAssignMaxTimestamp = "beam:window_mapping_fn:assign_max_timestamp:v1"
	WindowMappingGoGlobal           = "beam:go:windowmapping:global:v1"
	WindowMappingGoFixed            = "beam:go:windowmapping:fixed:v1"
	WindowMappingGoSliding          = "beam:go:windowmapping:sliding:v1"
)
