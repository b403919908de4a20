package options

// Type is what kind of value an option takes.
type Type int

const (
	// String options take any text.
	String Type = iota
	// Boolean options take true or false.
	Boolean
	// Integer options take whole numbers.
	Integer
	// Strings options take several texts.
	Strings
)

// Descriptor tells users of an option (PipelineOptionDescriptor in
// beam_job_api.proto). Python makes flags of those that it doesn't know itself,
// with the description as help for argparse: no percent signs.
type Descriptor struct {
	Name        string
	Type        Type
	Description string
	// Default is the value that the option has if it isn't given, as text.
	Default string
}

// Descriptors lists all options that Read looks at. The slice is the caller's.
func Descriptors() []Descriptor {
	return []Descriptor{
		{"job_name", String, "The name of the job, for people. Several jobs may have the same.", ""},
		{"streaming", Boolean, "Whether the pipeline is to run as a streaming job.", "false"},
		{"parallelism", Integer, "Tasks of a stage, at most 256; -1 means as many as the server is set to, else one a CPU.", "-1"},
		{"sdk_worker_parallelism", Integer, "Worker processes per environment, for SDKs that can't run bundles in parallel; 0 means the parallelism.", "0"},
		{"environments", String, `In what workers are started instead of what the pipeline asks for, such as java=PROCESS:{"command":"/opt/boot"},python=EXTERNAL:localhost:50000.`, ""},
		{"checkpoint_interval", String, "Time from one checkpoint to the next, such as 10s or 500ms; 0 takes none. Unset, it is 10s for jobs with unbounded input, and others take none.", ""},
		{"checkpoint_min_pause", String, "Time between two checkpoints at least, such as 1s.", ""},
		{"checkpoint_timeout", String, "Time after which a checkpoint that is not complete is given up, such as 1m. Unset, it is 10m.", ""},
		{"checkpoint_max_failures", Integer, "Failed checkpoints in a row that the job survives; 0 means any number.", "0"},
		{"checkpoint_concurrent", Integer, "Checkpoints that may be under way at once; 0 means one.", "0"},
		{"checkpoint_retain", Integer, "The newest checkpoints that are kept; 0 means three.", "0"},
		{"restart_attempts", Integer, "Times that a job with checkpoints is started again within restart_window after failures that aren't of its own code; 0 means never, -1 any number. Unset, it is 10.", ""},
		{"restart_window", String, "Time that restart_attempts counts, such as 10m. Unset, it is 1h.", ""},
		{"restart_delay", String, "Time before the first restart, doubled with each further one. Unset, it is 1s.", ""},
		{"restart_max_delay", String, "Time before a restart at most. Unset, it is 1m.", ""},
		{"restore_from", String, "URI of a savepoint that the job begins with, such as file:///savepoints/one.", ""},
		{"update", Boolean, "Whether the job takes the place of the running job of the same name, with its state.", "false"},
		{"update_job", String, "Id of the running job whose place the job takes, with its state.", ""},
		{"update_savepoint", String, "URI of the savepoint with which the job that is replaced is stopped. Unset, the server chooses one.", ""},
		{"allow_dropped_state", Strings, "Transforms, or TRANSFORM:STATE, whose state in the savepoint may be lost.", ""},
		{"transform_name_mapping", String, "JSON object of the names that transforms have in the savepoint to those they have now.", ""},
		{"experiments", Strings, "Names, or name=value, that switch something on which isn't for everybody yet.", ""},
	}
}
