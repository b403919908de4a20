package panes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"gopkg.in/yaml.v3"

	"github.com/lintelrun/lintel/portable/coders"
)

// transcript is one of Beam's trigger_transcripts.yaml (sdks/python/apache_beam/testing/data,
// under the Apache License 2.0, as stands in the file). Its times are in seconds.
type transcript struct {
	Name             string
	WindowFn         string `yaml:"window_fn"`
	TriggerFn        string `yaml:"trigger_fn"`
	Combiner         string `yaml:"timestamp_combiner"`
	AllowedLateness  int64  `yaml:"allowed_lateness"`
	AccumulationMode string `yaml:"accumulation_mode"`
	Transcript       []action
	Error            string
}

type action struct {
	Input     []int64
	Watermark *int64
	Clock     *int64
	Expect    []map[string]any
	State     map[string][][]int64
}

func TestTranscripts(t *testing.T) {
	b, err := os.ReadFile("testdata/trigger_transcripts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.ReplaceAll(b, []byte("values:["), []byte("values: [")) // which Python's parser does not need
	n := 0
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; n++ {
		var spec transcript
		if err := d.Decode(&spec); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			memory  int64
			restore bool
		}{"memory=0": {0, false}, "memory=1": {1, false}, "restored": {0, true}} {
			t.Run(spec.Name+"/"+name, func(t *testing.T) {
				r := newRig(t, spec.strategy(t), test.memory)
				r.restoring = test.restore
				err := spec.run(r)
				switch {
				case spec.Error == "" && err != nil:
					t.Error(err)
				case spec.Error != "" && (err == nil || !strings.Contains(err.Error(), spec.Error)):
					t.Errorf("%v, not %s", err, spec.Error)
				}
			})
		}
	}
	if n != 18 {
		t.Errorf("%d transcripts", n)
	}
}

// run acts the transcript and returns how the output differs from what it expects.
func (s *transcript) run(r *rig) error {
	var output []map[string]any
	for _, a := range s.Transcript {
		if a.Expect == nil && len(output) > 0 {
			return fmt.Errorf("Unexpected output %v", output)
		}
		var fired []pane
		switch {
		case a.Input != nil:
			var ms []int64
			for _, sec := range a.Input {
				ms = append(ms, sec*1000)
			}
			fired = r.add("k", ms...)
		case a.Watermark != nil:
			fired = r.advance(*a.Watermark * 1000)
		case a.Clock != nil:
			fired = r.clock(r.now + *a.Clock*1000)
		case a.State != nil:
			if err := checkState(r, a.State); err != nil {
				return err
			}
		}
		for _, p := range fired {
			output = append(output, s.fields(p))
		}
		if r.restoring {
			r.save()()
		}
		for _, want := range a.Expect {
			i := slices.IndexFunc(output, func(got map[string]any) bool { return matches(got, want) })
			if i < 0 {
				return fmt.Errorf("Unmatched output %v in %v", want, output)
			}
			output = slices.Delete(output, i, i+1)
		}
	}
	if len(output) > 0 {
		return fmt.Errorf("Unexpected output %v", output)
	}
	return nil
}

func (s *transcript) fields(p pane) map[string]any {
	values := []any{}
	for _, v := range p.Values {
		values = append(values, int(v/1000))
	}
	m := map[string]any{
		"window":               []any{int(p.Window[0] / 1000), int(p.Window[1] / 1000)},
		"values":               values,
		"timestamp":            int(p.Timestamp / 1000),
		"index":                int(p.Info.Index),
		"nonspeculative_index": int(p.Info.OnTimeIndex),
		"early":                p.Info.Timing == coders.Early,
		"late":                 p.Info.Timing == coders.Late,
		"final":                p.Info.Last,
	}
	if s.Combiner == "OUTPUT_AT_EARLIEST_TRANSFORMED" {
		delete(m, "timestamp") // which is that of a combiner that the model (OutputTime) does not have
	}
	return m
}

func matches(got, want map[string]any) bool {
	for k, v := range want {
		if g, ok := got[k]; ok && fmt.Sprint(g) != fmt.Sprint(v) {
			return false
		}
	}
	return true
}

// checkState checks which windows are kept: as open ones, or only to know that they are
// closed. What it calls absent has expired in Python by the least of reasons; we keep in mind
// that it is closed until the watermark says so.
func checkState(r *rig, want map[string][][]int64) error {
	r.must(r.p.Flush())
	for kind, windows := range want {
		for _, w := range windows {
			u, err := r.p.find(append([]byte{1}, "k"...), r.windows(w[0] * 1000)[0])
			r.must(err)
			if open := len(u.windows) == 1 && !u.windows[0].closed; open != (kind == "present") {
				return fmt.Errorf("window %v is not %s", w, kind)
			}
		}
	}
	return nil
}

func (s *transcript) strategy(t *testing.T) *strategy {
	var ws *strategy
	name, args := call(t, s.WindowFn)
	switch name {
	case "FixedWindows", "CustomTimestampingFixedWindowsWindowFn": // the model has no custom timestamping
		ws = fixed(t, number(t, args[0])*1000)
	case "Sessions":
		ws = sessions(t, number(t, args[0])*1000)
	case "":
		ws = global(t)
	default:
		t.Fatalf("window function %s", s.WindowFn)
	}
	ws.Trigger = parseTrigger(t, s.TriggerFn)
	ws.AllowedLateness = s.AllowedLateness * 1000
	ws.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	if s.AccumulationMode == "discarding" {
		ws.AccumulationMode = pipepb.AccumulationMode_DISCARDING
	}
	switch s.Combiner {
	case "", "OUTPUT_AT_EOW":
	case "OUTPUT_AT_EARLIEST", "OUTPUT_AT_EARLIEST_TRANSFORMED":
		ws.OutputTime = pipepb.OutputTime_EARLIEST_IN_PANE
	case "OUTPUT_AT_LATEST":
		ws.OutputTime = pipepb.OutputTime_LATEST_IN_PANE
	default:
		t.Fatalf("timestamp combiner %s", s.Combiner)
	}
	return ws
}

var callPattern = regexp.MustCompile(`^(\w*)(?:\((.*)\))?$`)

// call takes apart the call of a function in Python, whose arguments have one argument at most.
func call(t *testing.T, text string) (name string, args []string) {
	t.Helper()
	parts := callPattern.FindStringSubmatch(text)
	if parts == nil {
		t.Fatalf("%q is not a call", text)
	}
	if parts[2] != "" {
		args = strings.Split(parts[2], ",")
	}
	return parts[1], args
}

func number(t *testing.T, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func parseTrigger(t *testing.T, text string) *pipepb.Trigger {
	name, args := call(t, strings.TrimSpace(text))
	switch name {
	case "", "Default":
		return atEnd()
	case "AfterCount":
		return count(int32(number(t, args[0])))
	case "AfterWatermark":
		var early, late *pipepb.Trigger
		for _, arg := range args {
			key, value, _ := strings.Cut(strings.TrimSpace(arg), "=")
			if key == "early" {
				early = parseTrigger(t, value)
			} else {
				late = parseTrigger(t, value)
			}
		}
		return afterEnd(early, late)
	}
	t.Fatalf("trigger %s", text)
	return nil
}
