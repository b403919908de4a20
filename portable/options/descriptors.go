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
		{"experiments", Strings, "Names, or name=value, that switch something on which isn't for everybody yet.", ""},
	}
}
