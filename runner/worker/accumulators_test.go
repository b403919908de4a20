package worker

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// sums is a job that sums, by key, elements of a TestStream, in panes of n that accumulate.
// Accumulators are numbers as text.
type sums struct {
	windowCalls
	mu    sync.Mutex
	most  int      // accumulators in a pane
	panes []string // what leaves
}

func sumJob(t *testing.T, n int32, events ...*pipepb.TestStreamPayload_Event) *sums {
	p := portabletest.New()
	in := testStream(p, "test", []string{"o"}, events...)[0]
	out := p.Combine("combine", pEnv, in)
	p.ParDo("write", pEnv, pBytes, out)
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: &pipepb.Trigger{
		Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: n}}}}}}
	ws.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	p.Proto.Components.WindowingStrategies["counting"] = ws
	for _, id := range []string{in, out} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "counting"
		p.Proto.Components.Pcollections[id].IsBounded = pipepb.IsBounded_UNBOUNDED
	}
	s := &sums{}
	same := func(c *call) error {
		c.emit(c.element)
		return nil
	}
	s.p = compile(t, p, map[string]doFn{
		"test/Encode/o":   unprefix,
		"combine/Convert": same,
		"combine/Merge": func(c *call) error {
			key, values := group(c.element)
			s.mu.Lock()
			s.most = max(s.most, len(values))
			s.mu.Unlock()
			sum, err := add(values)
			c.emit(kvOf(key, sum))
			return err
		},
		"combine/ExtractOutputs": same,
		"write": func(c *call) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			key := text(c.element)
			s.panes = append(s.panes, key+"="+text(c.element[len(bytesOf(key)):]))
			return nil
		},
	})
	s.fn = func(accumulators []byte) ([]byte, error) {
		_, values := group(append(bytesOf(""), accumulators...))
		sum, err := add(values)
		return bytesOf(sum), err
	}
	return s
}

func add(values []string) (string, error) {
	sum := 0
	for _, v := range values {
		n, err := strconv.Atoi(v)
		if err != nil {
			return "", err
		}
		sum += n
	}
	return strconv.Itoa(sum), nil
}

// batches returns events with as many elements of value 1 each, of two keys in turns.
func batches(events, each int) []*pipepb.TestStreamPayload_Event {
	var all []*pipepb.TestStreamPayload_Event
	for range events {
		var list []string
		for i := range each {
			list = append(list, []string{"a=1@5", "b=1@5"}[i%2])
		}
		all = append(all, elements("", list...))
	}
	return append(all, watermark("", 1<<60))
}

// A trigger counts elements, while those are kept as few accumulators, which the SDK merges.
func TestTriggersCountElementsOfMergedAccumulators(t *testing.T) {
	s := sumJob(t, 5, batches(20, 200)...)
	s.reverse = true
	newRig(t, s.script).mustRun(s.p.plan)
	var want []string
	for n := 5; n <= 2000; n += 5 {
		want = append(want, fmt.Sprint("a=", n), fmt.Sprint("b=", n))
	}
	want = append(want, "a=2000", "b=2000") // the last pane, on time, has nothing new
	slices.Sort(want)
	slices.Sort(s.panes)
	if !slices.Equal(s.panes, want) {
		t.Errorf("panes %q, want %q", s.panes, want)
	}
	if calls, bundles := s.calls.Load(), s.bundles.Load(); s.most > 65 || bundles == 0 || calls > 4000/64 {
		t.Errorf("up to %d accumulators in a pane, %d windows merged in %d bundles", s.most, calls, bundles)
	}
}

func TestMergingAccumulatorsSurvivesALostHarness(t *testing.T) {
	s := sumJob(t, 5, batches(2, 200)...)
	s.before = func(me *process, n int64) error {
		if n <= 2 {
			me.die(errCrash)
			<-me.stop
		}
		return nil
	}
	newRig(t, s.script).mustRun(s.p.plan)
	if !slices.Contains(s.panes, "a=200") || !slices.Contains(s.panes, "b=200") {
		t.Errorf("panes %q", s.panes)
	}
}

func TestFailingToMergeAccumulators(t *testing.T) {
	for name, c := range map[string]struct {
		fn    windowFn
		class fault.Class
		text  string
	}{
		"user's error": {func([]byte) ([]byte, error) { return nil, errors.New("the user's own words") }, fault.UserCode, "the user's own words"},
		"garbage":      {func([]byte) ([]byte, error) { return bytes.Repeat([]byte{0xff}, 20), nil }, fault.Corruption, "answer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sumJob(t, 5, batches(1, 200)...)
			s.fn = c.fn
			_, err := newRig(t, s.script).run(s.p.plan)
			wantError(t, err, c.class, c.text, "merging accumulators", "4 times")
		})
	}
}
