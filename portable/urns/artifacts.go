package urns

// Artifact types: how an artifact is had (beam_runner_api.proto, StandardArtifacts.Types).
const (
	ArtifactFile     = "beam:artifact:type:file:v1"
	ArtifactURL      = "beam:artifact:type:url:v1"
	ArtifactEmbedded = "beam:artifact:type:embedded:v1"
	ArtifactPyPI     = "beam:artifact:type:pypi:v1"
	ArtifactMaven    = "beam:artifact:type:maven:v1"
	ArtifactDeferred = "beam:artifact:type:deferred:v1"
)

// Artifact roles: what an artifact is for (StandardArtifacts.Roles).
const (
	ArtifactRoleStagingTo           = "beam:artifact:role:staging_to:v1"
	ArtifactRolePipRequirementsFile = "beam:artifact:role:pip_requirements_file:v1"
	ArtifactRoleGoWorkerBinary      = "beam:artifact:role:go_worker_binary:v1"
)
