package options_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/options"
)

func read(t *testing.T, values map[string]any) (*options.Options, error) {
	t.Helper()
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return options.Read(s)
}

func TestNeedCheckpoints(t *testing.T) {
	given := map[string]any{
		"checkpoint_interval": "10s", "checkpoint_timeout": "1m", "checkpoint_max_failures": 3.0, "checkpoint_concurrent": 2.0, "checkpoint_retain": 1.0,
		"restart_attempts": -1.0, "restart_window": "1h", "restart_delay": "1s", "restart_max_delay": "1m",
		"restore_from": "file:///s", "allow_dropped_state": "a", "transform_name_mapping": `{"a": "b"}`,
	}
	for name, value := range map[string]any{"checkpoint_min_pause": "1s", "restart_attempts": 2.0, "update": true, "update_job": "a-1"} {
		if o, err := read(t, map[string]any{name: value}); err != nil || !slices.Equal(o.NeedCheckpoints(), []string{name}) {
			t.Errorf("%s=%v: %v, %v", name, value, o.NeedCheckpoints(), err)
		}
	}
	o, err := read(t, given)
	if err != nil {
		t.Fatal(err)
	}
	got := o.NeedCheckpoints()
	for _, d := range options.Descriptors() {
		about := strings.HasPrefix(d.Name, "checkpoint_") || strings.HasPrefix(d.Name, "restart_") || given[d.Name] != nil
		if d.Name != "checkpoint_min_pause" && slices.Contains(got, d.Name) != about {
			t.Errorf("of %v: %s", got, d.Name)
		}
	}
	// What asks for nothing that a job without checkpoints doesn't have.
	for _, values := range []map[string]any{
		{"checkpoint_interval": "0", "restart_attempts": 0.0, "checkpoint_max_failures": 0.0, "checkpoint_timeout": ""},
		{"parallelism": 3.0, "experiments": "a"},
	} {
		if o, err := read(t, values); err != nil || len(o.NeedCheckpoints()) > 0 {
			t.Errorf("%v: %v, %v", values, o.NeedCheckpoints(), err)
		}
	}
}

func TestOptionsThatDoNotGoTogether(t *testing.T) {
	for _, values := range []map[string]any{
		{"checkpoint_min_pause": "1s", "checkpoint_concurrent": 2.0},
		{"restart_delay": "2m", "restart_max_delay": "1m"},
		{"restore_from": "file:///s", "update": true},
		{"restore_from": "file:///s", "update_job": "a-1"},
		{"update_savepoint": "file:///s"},
		{"allow_dropped_state": "a"},
		{"transform_name_mapping": `{"a": "b"}`},
	} {
		_, err := read(t, values)
		if fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%v: %v", values, err)
			continue
		}
		for name := range values {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%v: %v", values, err)
			}
		}
	}
}
