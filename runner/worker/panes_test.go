package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/portabletest"
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
