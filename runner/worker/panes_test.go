package worker

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/panes"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// early is a trigger of the end of the window that fires early, d after a pane's first element.
func early(d time.Duration) *pipepb.Trigger {
	delay := &pipepb.TimestampTransform{TimestampTransform: &pipepb.TimestampTransform_Delay_{
		Delay: &pipepb.TimestampTransform_Delay{DelayMillis: d.Milliseconds()}}}
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{
		EarlyFirings: &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: &pipepb.Trigger_AfterProcessingTime{
			TimestampTransforms: []*pipepb.TimestampTransform{delay}}}}}}}
}

// Groups of unbounded input leave in panes: as processing time goes by, when the watermark
// has passed the end of the window, and at the end of the input.
func TestGroupsLeaveInPanes(t *testing.T) {
	p := portabletest.New()
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	ws.Trigger, ws.AccumulationMode = early(5*time.Minute), pipepb.AccumulationMode_ACCUMULATING
	p.Proto.Components.WindowingStrategies["early"] = ws
	out := testStream(p, "test", []string{"o"},
		elements("", "k=1@1000", "k=2@2000", "j=x@1"),
		pass(12*time.Minute),
		elements("", "k=3@3000"),
		pass(2*time.Minute),
		elements("", "k=4@4000"),
		pass(6*time.Minute),
		watermark("", coders.MaxTimestamp),
	)[0]
	groups := p.GroupByKey("group", out)
	p.ParDo("write", pEnv, pBytes, groups)
	for _, id := range []string{out, groups} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "early"
		p.Proto.Components.Pcollections[id].IsBounded = pipepb.IsBounded_UNBOUNDED
	}
	var j journal
	c := compile(t, p, map[string]doFn{"test/Encode/o": unprefix, "write": func(c *call) error {
		pane, _, err := coders.DecodePane(c.run.header[12:])
		if err != nil {
			return err
		}
		key, values := group(c.element)
		slices.Sort(values)
		j.note(key, "%s, pane %d, timing %d", strings.Join(values, " "), pane.Index, pane.Timing)
		return nil
	}})
	e := newRig(t, c.script).mustRun(c.plan)
	want := map[string][]string{
		"k": {"1 2, pane 0, timing 0", "1 2 3 4, pane 1, timing 0", "1 2 3 4, pane 2, timing 1"},
		"j": {"x, pane 0, timing 0", "x, pane 1, timing 1"},
	}
	if diff := cmp.Diff(want, j.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, committed := e.Metrics()
	if !slices.ContainsFunc(committed, func(i *pipepb.MonitoringInfo) bool {
		n, _, _ := coders.Varint(i.GetPayload())
		return i.GetLabels()["PCOLLECTION"] == groups && n == 5
	}) {
		t.Errorf("5 panes are not what is counted: %v", fmt.Sprint(committed))
	}
}

// A delay that was over before a watermark came gives an early pane, even if the task comes
// to both at once. One that began with what came together with the watermark does not, however
// long the task takes over it.
func TestTimeComesBeforeTheWatermark(t *testing.T) {
	for name, c := range map[string]struct {
		later time.Duration // that the watermark comes
		want  []int
	}{
		"later":    {time.Hour, []int{int(coders.Early), int(coders.OnTime)}},
		"together": {0, []int{int(coders.OnTime)}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := timings(t, c.later); !slices.Equal(got, c.want) {
				t.Errorf("panes of timings %v, want %v", got, c.want)
			}
		})
	}
}

// timings returns those of the panes of an element whose trigger waits for a minute, and of the
// final watermark, which comes later or, if that is zero, with it; the task takes an hour to see
// to them then, and another over the element.
func timings(t *testing.T, later time.Duration) (out []int) {
	p := portabletest.New()
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	ws.Trigger = early(time.Minute)
	p.Proto.Components.WindowingStrategies["early"] = ws
	kvs := p.ParDo("kv", pEnv, pKV, p.Impulse("impulse"))
	groups := p.GroupByKey("group", kvs)
	p.ParDo("write", pEnv, pBytes, groups)
	for _, id := range []string{kvs, groups} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "early"
	}
	c := compile(t, p, nil)
	stage := c.plan.Stages[slices.IndexFunc(c.plan.Stages, func(s *plan.Stage) bool { return s.Kind == plan.GroupByKey })]

	clock := virtualClock(1)
	e := &execution{clock: clock, stats: newProgress(c.plan, nil), jobs: new(atomic.Int64)}
	store, err := memstate.New().Open("task")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	g, err := panes.New(panes.Config{Input: stage.Group.Input, Windowing: stage.Group.Windowing, Store: store, EndGroup: keygroup.DefaultMax})
	if err != nil {
		t.Fatal(err)
	}
	x := &paneTask{groups: g, in: engine.NewWatermarks(1), out: frame.MinTimestamp,
		task: &task{e: e, stage: stage, inbox: exchange.NewInbox(1 << 20), outbox: exchange.NewOutbox(nil)},
		grouped: grouped{spec: stage.Group, prepare: func(block []byte) ([]byte, error) {
			if later == 0 {
				clock.now = clock.now.Add(time.Hour)
			}
			return block, nil
		}, panes: func(f frame.Frame) error {
			var el coders.Element
			for rest := f.Data; len(rest) > 0; rest = rest[el.Size:] {
				pane, _, err := coders.DecodePane(rest[12:])
				if err != nil {
					return err
				}
				out = append(out, int(pane.Timing))
				if err := stage.Out[0].Coder.Next(rest, &el); err != nil {
					return err
				}
			}
			return nil
		}}}
	messages := []exchange.Message{
		{Frame: frame.Frame{Data: windowed(0, kvOf("k", "v")), Elements: 1}},
		{Kind: exchange.Watermark, Watermark: frame.MaxTimestamp},
	}
	for _, m := range messages {
		if err := x.deliver(m); err != nil {
			t.Fatal(err)
		}
		if later == 0 && m.Kind == exchange.Data {
			clock.now = clock.now.Add(time.Hour) // the task has not seen to it
			continue
		}
		if _, _, err := x.act(t.Context()); err != nil {
			t.Fatal(err)
		}
		clock.now = clock.now.Add(later)
	}
	return out
}
