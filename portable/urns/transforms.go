// Package urns holds the URNs of the Beam model that Lintel reads or writes.
package urns

// Primitive transforms (beam_runner_api.proto, StandardPTransforms.Primitives and DeprecatedPrimitives).
const (
	TransformImpulse      = "beam:transform:impulse:v1"
	TransformParDo        = "beam:transform:pardo:v1"
	TransformFlatten      = "beam:transform:flatten:v1"
	TransformGroupByKey   = "beam:transform:group_by_key:v1"
	TransformWindowInto   = "beam:transform:window_into:v1"
	TransformTestStream   = "beam:transform:teststream:v1"
	TransformMapWindows   = "beam:transform:map_windows:v1"
	TransformMergeWindows = "beam:transform:merge_windows:v1"
	TransformToString     = "beam:transform:to_string:v1"
	TransformRead         = "beam:transform:read:v1"        // deprecated
	TransformCreateView   = "beam:transform:create_view:v1" // deprecated
)

// Composite transforms (StandardPTransforms.Composites and GroupIntoBatchesComponents).
const (
	TransformCombinePerKey                  = "beam:transform:combine_per_key:v1"
	TransformCombineGlobally                = "beam:transform:combine_globally:v1"
	TransformReshuffle                      = "beam:transform:reshuffle:v1"
	TransformRedistributeByKey              = "beam:transform:redistribute_by_key:v1"
	TransformRedistributeArbitrarily        = "beam:transform:redistribute_arbitrarily:v1"
	TransformGroupIntoBatches               = "beam:transform:group_into_batches:v1"
	TransformGroupIntoBatchesWithShardedKey = "beam:transform:group_into_batches_with_sharded_key:v1"
	TransformWriteFiles                     = "beam:transform:write_files:v1"
	TransformPubSubRead                     = "beam:transform:pubsub_read:v1"
	TransformPubSubWrite                    = "beam:transform:pubsub_write:v1"
	TransformPubSubWriteDynamic             = "beam:transform:pubsub_write:v2"
)

// Parts of a combine (StandardPTransforms.CombineComponents).
const (
	TransformCombinePrecombine            = "beam:transform:combine_per_key_precombine:v1"
	TransformCombineMergeAccumulators     = "beam:transform:combine_per_key_merge_accumulators:v1"
	TransformCombineExtractOutputs        = "beam:transform:combine_per_key_extract_outputs:v1"
	TransformCombineConvertToAccumulators = "beam:transform:combine_per_key_convert_to_accumulators:v1"
	TransformCombineGroupedValues         = "beam:transform:combine_grouped_values:v1"
)

// Parts of a splittable ParDo (StandardPTransforms.SplittableParDoComponents).
const (
	TransformSDFPairWithRestriction = "beam:transform:sdf_pair_with_restriction:v1"
	TransformSDFSplitAndSize        = "beam:transform:sdf_split_and_size_restrictions:v1"
	TransformSDFProcessSized        = "beam:transform:sdf_process_sized_element_and_restrictions:v1"
	TransformSDFTruncateSized       = "beam:transform:sdf_truncate_sized_restrictions:v1"
)

// Ends of a bundle descriptor's graph (beam_fn_api.proto, RemoteGrpcPort).
const (
	TransformSource = "beam:runner:source:v1"
	TransformSink   = "beam:runner:sink:v1"
)
