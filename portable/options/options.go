// Package options reads the pipeline options of a job as SDKs send them over the Job API.
package options

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
)

// Options are the pipeline options that Lintel acts on. All others are the
// SDK's business. The zero value is what a job without options has.
type Options struct {
	// JobName is the user's name for the job, or "". Go jobs call it app_name.
	JobName string
	// Streaming is true where the user asks for a streaming job.
	Streaming bool
	// Parallelism is the number of tasks of a stage, 0 for the runner's default.
	Parallelism int
	// SDKWorkerParallelism is the number of harnesses per environment on a
	// worker, 0 for the runner's default.
	SDKWorkerParallelism int
	// Environments says in what environments are started instead of what the pipeline asks for, as
	// environment.ParseOverrides reads it.
	Environments string
	// Experiments are names, or name=value.
	Experiments []string
	// Checkpoints and Restart are when checkpoints are taken, and what becomes of the job
	// after a failure.
	Checkpoints Checkpoints
	Restart     Restart
	// RestoreFrom is the URI of a savepoint to begin with, or "".
	RestoreFrom string
	// Update is true where the job takes the place of a running one of its name, or of the job with the id
	// UpdateJob, and goes on from the savepoint that this is stopped with. It goes to UpdateSavepoint, or
	// where the runner puts savepoints.
	Update                     bool
	UpdateJob, UpdateSavepoint string
	// AllowDroppedState names transforms, or TRANSFORM:STATE, whose state in the savepoint may be lost.
	AllowDroppedState []string
	// TransformNames has the new names of transforms, by those they have in the savepoint.
	TransformNames map[string]string
}

// Updates tells whether the job takes the place of a running one.
func (o *Options) Updates() bool { return o.Update || o.UpdateJob != "" }

// Experiment returns the value of an experiment; that of one without a value is "".
func (o *Options) Experiment(name string) (value string, ok bool) {
	for _, e := range o.Experiments {
		if n, v, _ := strings.Cut(e, "="); n == name {
			return v, true
		}
	}
	return "", false
}

// Validate checks the ranges of numbers, and options that go together.
func (o *Options) Validate() error {
	for name, n := range map[string]int{
		"parallelism": o.Parallelism, "sdk_worker_parallelism": o.SDKWorkerParallelism, "restart_attempts": o.Restart.Attempts,
		"checkpoint_max_failures": o.Checkpoints.MaxFailures, "checkpoint_concurrent": o.Checkpoints.Concurrent, "checkpoint_retain": o.Checkpoints.Retain,
	} {
		if n < 0 || n > math.MaxInt32 {
			return fault.New(fault.Invalid, "pipeline option %q is %d, which is out of range", name, n)
		}
	}
	return o.validateCheckpoints()
}

// Read reads the options in a PrepareJobRequest. An option is looked for by its
// key beam:option:NAME:v1, then by its bare name, then in the nested Struct
// "options", then among the Go SDK's own flags and last as the experiment
// lintel_NAME=VALUE, which every SDK takes; numbers and booleans may be strings. Values that can't be read are a fault.Invalid that names the option.
func Read(s *structpb.Struct) (*Options, error) {
	r := &reader{from: sources(s)}
	experiments := r.list("experiments")
	r.from = append(r.from, fromExperiments(experiments))
	o := &Options{
		JobName:              r.text("job_name", "app_name"),
		Streaming:            r.flag("streaming"),
		Parallelism:          r.number("parallelism"),
		SDKWorkerParallelism: r.number("sdk_worker_parallelism"),
		Environments:         r.text("environments"),
		Experiments:          experiments,
		Checkpoints:          r.checkpoints(),
		Restart:              r.restart(),
		RestoreFrom:          r.text("restore_from"),
		Update:               r.flag("update"),
		UpdateJob:            r.text("update_job"),
		UpdateSavepoint:      r.text("update_savepoint"),
		AllowDroppedState:    r.list("allow_dropped_state"),
		TransformNames:       r.names("transform_name_mapping"),
	}
	if r.err != nil {
		return nil, r.err
	}
	if o.Parallelism == -1 { // what the Go SDK sends for "not given"
		o.Parallelism = 0
	}
	return o, o.Validate()
}

// Key returns the key under which an option is looked for first.
func Key(name string) string { return "beam:option:" + name + ":v1" }

// sources are the maps that options may be in, best first.
func sources(s *structpb.Struct) []map[string]*structpb.Value {
	urns := map[string]*structpb.Value{}
	for key, v := range s.GetFields() {
		if name, ok := strings.CutPrefix(key, "beam:option:"); ok {
			if i := strings.LastIndexByte(name, ':'); i >= 0 {
				urns[name[:i]] = v
			}
		}
	}
	golang := urns["go_options"].GetStructValue().GetFields()["options"]
	return []map[string]*structpb.Value{
		urns,
		s.GetFields(),
		s.GetFields()["options"].GetStructValue().GetFields(),
		golang.GetStructValue().GetFields(),
	}
}

// fromExperiments returns the options that are given as experiments: SDKs that know all flags of a
// program beforehand have no other place for ours.
func fromExperiments(all []string) map[string]*structpb.Value {
	given := map[string]*structpb.Value{}
	for _, e := range all {
		name, value, ok := strings.Cut(e, "=")
		if name, ours := strings.CutPrefix(name, "lintel_"); ok && ours {
			given[name] = structpb.NewStringValue(value)
		}
	}
	return given
}

// reader keeps the first error.
type reader struct {
	from []map[string]*structpb.Value
	err  error
}

// get returns the first of the names that has a value, nil if none has.
func (r *reader) get(names ...string) (string, *structpb.Value) {
	for _, name := range names {
		for _, m := range r.from {
			v := m[name]
			if _, null := v.GetKind().(*structpb.Value_NullValue); v.GetKind() != nil && !null {
				return name, v
			}
		}
	}
	return "", nil
}

func (r *reader) bad(name string, v *structpb.Value, want string) {
	if r.err == nil {
		r.err = fault.New(fault.Invalid, "pipeline option %q is %v, not %s", name, v.AsInterface(), want)
	}
}

func (r *reader) text(names ...string) string {
	name, v := r.get(names...)
	switch k := v.GetKind().(type) {
	case nil:
	case *structpb.Value_StringValue:
		return k.StringValue
	default:
		r.bad(name, v, "a string")
	}
	return ""
}

func (r *reader) flag(name string) bool {
	_, v := r.get(name)
	switch k := v.GetKind().(type) {
	case nil:
		return false
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_StringValue:
		if b, err := strconv.ParseBool(k.StringValue); err == nil {
			return b
		}
	}
	r.bad(name, v, "true or false")
	return false
}

func (r *reader) number(name string) int {
	_, v := r.get(name)
	switch k := v.GetKind().(type) {
	case nil:
		return 0
	case *structpb.Value_NumberValue:
		if n := k.NumberValue; n == math.Trunc(n) && math.Abs(n) <= math.MaxInt32 {
			return int(n)
		}
	case *structpb.Value_StringValue:
		if n, err := strconv.ParseInt(k.StringValue, 10, 64); err == nil {
			return int(n)
		}
	}
	r.bad(name, v, "a whole number")
	return 0
}

// list reads a list of strings, or one string with commas.
func (r *reader) list(name string) []string {
	_, v := r.get(name)
	switch k := v.GetKind().(type) {
	case nil:
		return nil
	case *structpb.Value_StringValue:
		return slices.DeleteFunc(strings.Split(k.StringValue, ","), func(s string) bool { return s == "" })
	case *structpb.Value_ListValue:
		var all []string
		for _, item := range k.ListValue.GetValues() {
			s, ok := item.GetKind().(*structpb.Value_StringValue)
			if !ok {
				r.bad(name, v, "a list of strings")
				return nil
			}
			all = append(all, s.StringValue)
		}
		return all
	}
	r.bad(name, v, "a list of strings")
	return nil
}
