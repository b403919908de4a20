package urns

// Capabilities of environments (beam_runner_api.proto, StandardProtocols).
// An environment also lists the URNs of coders and transforms that it knows.
const (
	CapabilityProgressReportingV0             = "beam:protocol:progress_reporting:v0"
	CapabilityProgressReporting               = "beam:protocol:progress_reporting:v1"
	CapabilityWorkerStatus                    = "beam:protocol:worker_status:v1"
	CapabilityMultiCoreBundleProcessing       = "beam:protocol:multi_core_bundle_processing:v1"
	CapabilitySiblingWorkers                  = "beam:protocol:sibling_workers:v1"
	CapabilityHarnessMonitoringInfos          = "beam:protocol:harness_monitoring_infos:v1"
	CapabilityControlRequestElementsEmbedding = "beam:protocol:control_request_elements_embedding:v1"
	CapabilityStateCaching                    = "beam:protocol:state_caching:v1"
	CapabilityDataSampling                    = "beam:protocol:data_sampling:v1"
	CapabilitySDKConsumingReceivedData        = "beam:protocol:sdk_consuming_received_data:v1"
	CapabilityOrderedListState                = "beam:protocol:ordered_list_state:v1"
	CapabilityMultimapState                   = "beam:protocol:multimap_state:v1"
	CapabilityNamedDataStreams                = "beam:protocol:named_data_streams:v1"
	CapabilityElementMetadata                 = "beam:protocol:element_metadata:v1"
)

// Capabilities of runners, told in ProvisionInfo (StandardRunnerProtocols).
const (
	RunnerMonitoringInfoShortIDs           = "beam:protocol:monitoring_info_short_ids:v1"
	RunnerControlResponseElementsEmbedding = "beam:protocol:control_response_elements_embedding:v1"
	RunnerMultimapKeysValuesSideInput      = "beam:protocol:multimap_keys_values_side_input:v1"
)
