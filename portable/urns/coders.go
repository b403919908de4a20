package urns

// Coders (beam_runner_api.proto, StandardCoders).
const (
	CoderBytes               = "beam:coder:bytes:v1"
	CoderStringUTF8          = "beam:coder:string_utf8:v1"
	CoderBool                = "beam:coder:bool:v1"
	CoderVarint              = "beam:coder:varint:v1"
	CoderDouble              = "beam:coder:double:v1"
	CoderKV                  = "beam:coder:kv:v1"
	CoderIterable            = "beam:coder:iterable:v1"
	CoderStateBackedIterable = "beam:coder:state_backed_iterable:v1"
	CoderLengthPrefix        = "beam:coder:length_prefix:v1"
	CoderWindowedValue       = "beam:coder:windowed_value:v1"
	CoderParamWindowedValue  = "beam:coder:param_windowed_value:v1"
	CoderGlobalWindow        = "beam:coder:global_window:v1"
	CoderIntervalWindow      = "beam:coder:interval_window:v1"
	CoderCustomWindow        = "beam:coder:custom_window:v1"
	CoderTimer               = "beam:coder:timer:v1"
	CoderRow                 = "beam:coder:row:v1"
	CoderSchema              = "beam:coder:schema:v1"
	CoderShardedKey          = "beam:coder:sharded_key:v1"
	CoderNullable            = "beam:coder:nullable:v1"
)

// Logical types of schemas whose encoding is not that of their representation
// (schema.proto, LogicalTypes; LogicalPythonAny is of the Python SDK).
const (
	LogicalMillisInstant = "beam:logical_type:millis_instant:v1" // a timestamp of 8 bytes
	LogicalDecimal       = "beam:logical_type:decimal:v1"        // a varint scale and the unscaled value's bytes
	LogicalPythonAny     = "beam:logical:pythonsdk_any:v1"       // whatever Python's default coder writes
)
