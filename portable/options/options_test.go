package options_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/options"
)

func TestRead(t *testing.T) {
	type m = map[string]any
	for name, test := range map[string]struct {
		in   m
		want options.Options
	}{
		"nothing": {nil, options.Options{}},
		"python": {
			m{
				"beam:option:job_name:v1": "count", "beam:option:streaming:v1": true, "beam:option:sdk_worker_parallelism:v1": "4",
				"beam:option:experiments:v1": []any{"beam_fn_api", "pre_optimize=none"}, "beam:option:input:v1": m{},
			},
			options.Options{JobName: "count", Streaming: true, SDKWorkerParallelism: 4, Experiments: []string{"beam_fn_api", "pre_optimize=none"}},
		},
		"go": {
			m{
				"beam:option:go_options:v1": m{"options": m{"job_name": "go-job", "streaming": "true"}}, "beam:option:parallelism:v1": 3.0,
				"beam:option:experiments:v1": nil,
			},
			options.Options{JobName: "go-job", Streaming: true, Parallelism: 3},
		},
		"checkpoints": {
			m{
				"checkpoint_interval": "500ms", "checkpoint_min_pause": "1s", "checkpoint_timeout": "2m", "checkpoint_max_failures": "3",
				"checkpoint_concurrent": 1.0, "checkpoint_retain": 5.0,
			},
			options.Options{Checkpoints: options.Checkpoints{
				Interval: 500 * time.Millisecond, MinPause: time.Second, Timeout: 2 * time.Minute, MaxFailures: 3, Concurrent: 1, Retain: 5,
			}},
		},
		"no checkpoints":          {m{"checkpoint_interval": 0.0}, options.Options{Checkpoints: options.Checkpoints{Off: true}}},
		"checkpoints as they are": {m{"checkpoint_interval": "", "checkpoint_timeout": ""}, options.Options{}},
		"restarts": {
			m{"restart_attempts": 4.0, "restart_window": "1h", "restart_delay": "", "restart_max_delay": "30s"},
			options.Options{Restart: options.Restart{Attempts: 4, Window: time.Hour, MaxDelay: 30 * time.Second}},
		},
		"no restarts":        {m{"restart_attempts": "0"}, options.Options{Restart: options.Restart{Never: true}}},
		"any number of them": {m{"restart_attempts": -1.0}, options.Options{Restart: options.Restart{Always: true}}},
		"savepoint": {
			m{"restore_from": "file:///s", "allow_dropped_state": []any{"a", "b:c"}, "transform_name_mapping": `{"a": "b"}`},
			options.Options{RestoreFrom: "file:///s", AllowDroppedState: []string{"a", "b:c"}, TransformNames: map[string]string{"a": "b"}},
		},
		"update": {
			m{"beam:option:update:v1": "true", "update_job": "a-1", "update_savepoint": "file:///s", "allow_dropped_state": "a"},
			options.Options{Update: true, UpdateJob: "a-1", UpdateSavepoint: "file:///s", AllowDroppedState: []string{"a"}},
		},
		"experiments": {
			m{"experiments": []any{"lintel_restore_from=file:///s?a=b", "lintel_parallelism=3", "lintel_separate_stages", "x=y"}},
			options.Options{RestoreFrom: "file:///s?a=b", Parallelism: 3, Experiments: []string{"lintel_restore_from=file:///s?a=b", "lintel_parallelism=3", "lintel_separate_stages", "x=y"}},
		},
		"experiments come last": {m{"parallelism": 2.0, "experiments": "lintel_parallelism=3"}, options.Options{Parallelism: 2, Experiments: []string{"lintel_parallelism=3"}}},
		"names as an object": {
			m{"restore_from": "s", "transform_name_mapping": m{"a": "b"}}, options.Options{RestoreFrom: "s", TransformNames: map[string]string{"a": "b"}},
		},
		"bare and nested":   {m{"parallelism": "2", "options": m{"job_name": "j", "parallelism": 7.0}}, options.Options{JobName: "j", Parallelism: 2}},
		"list with commas":  {m{"experiments": "a,b=c,"}, options.Options{Experiments: []string{"a", "b=c"}}},
		"app name":          {m{"beam:option:app_name:v1": "app"}, options.Options{JobName: "app"}},
		"job over app name": {m{"beam:option:app_name:v1": "app", "job_name": "job"}, options.Options{JobName: "job"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := structpb.NewStruct(test.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := options.Read(s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	type m = map[string]any
	for name, value := range map[string]any{
		"job_name": 3.0, "streaming": "perhaps", "parallelism": 1.5, "sdk_worker_parallelism": "-1", "experiments": []any{1.0},
		"checkpoint_interval": "10", "checkpoint_timeout": "-1s", "checkpoint_min_pause": 1000.0, "restart_attempts": -2.0, "restart_delay": true,
		"restart_window": 0.0, "restart_max_delay": "0s",
		"checkpoint_retain": -1.0, "transform_name_mapping": `["a"]`, "restore_from": m{},
	} {
		s, err := structpb.NewStruct(map[string]any{"beam:option:" + name + ":v1": value})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := options.Read(s); fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExperiment(t *testing.T) {
	o := options.Options{Experiments: []string{"a", "b=c=d"}}
	if v, ok := o.Experiment("a"); !ok || v != "" {
		t.Errorf("a is %q, %v", v, ok)
	}
	if v, ok := o.Experiment("b"); !ok || v != "c=d" {
		t.Errorf("b is %q, %v", v, ok)
	}
	if _, ok := o.Experiment("c"); ok {
		t.Error("c is on")
	}
}

func TestDescriptorsAreThoseOfRead(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range options.Descriptors() {
		if seen[d.Name] || d.Description == "" || strings.Contains(d.Description, "%") {
			t.Errorf("descriptor %+v: twice, without a description, or one that argparse can't take", d)
		}
		seen[d.Name] = true
		// Read looks at it: a value of no type is refused by its name.
		s, err := structpb.NewStruct(map[string]any{"beam:option:" + d.Name + ":v1": []any{map[string]any{}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := options.Read(s); err == nil || !strings.Contains(err.Error(), d.Name) {
			t.Errorf("%s: a list of objects is read: %v", d.Name, err)
		}
		if d.Default == "" {
			continue
		}
		// The default is what a job without the option has.
		if s, err = structpb.NewStruct(map[string]any{d.Name: d.Default}); err != nil {
			t.Fatal(err)
		}
		if o, err := options.Read(s); err != nil || !cmp.Equal(o, &options.Options{}) {
			t.Errorf("%s=%s: %+v, %v", d.Name, d.Default, o, err)
		}
	}
}
