package options_test

import (
	"strings"
	"testing"

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
	for name, value := range map[string]any{
		"job_name": 3.0, "streaming": "perhaps", "parallelism": 1.5, "sdk_worker_parallelism": "-1", "experiments": []any{1.0},
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
		s, err := structpb.NewStruct(map[string]any{"beam:option:" + d.Name + ":v1": map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := options.Read(s); err == nil || !strings.Contains(err.Error(), d.Name) {
			t.Errorf("%s: an object is read: %v", d.Name, err)
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
