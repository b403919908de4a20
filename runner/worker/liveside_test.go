package worker

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
)

// onceAndAgain fires for each element.
var onceAndAgain = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: &pipepb.Trigger{
	Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}}}}

// fixedWindows adds a strategy of windows of so many ms; a nil trigger is the default.
func fixedWindows(p *portabletest.Pipeline, id string, ms int64, trigger *pipepb.Trigger) string {
	all := p.Proto.Components
	p.Coder("interval", urns.CoderIntervalWindow)
	ws := proto.Clone(all.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	payload, err := proto.Marshal(&pipepb.FixedWindowsPayload{Size: durationpb.New(time.Duration(ms) * time.Millisecond)})
	if err != nil {
		panic(err)
	}
	ws.WindowFn = &pipepb.FunctionSpec{Urn: urns.WindowFnFixed, Payload: payload}
	ws.WindowCoderId = "interval"
	if trigger != nil {
		ws.Trigger = trigger
	}
	all.WindowingStrategies[id] = ws
	return id
}

// windowInto puts elements, "k=v@ms" in the global window, into windows of a size.
func windowInto(sizes ...int64) doFn {
	return func(c *call) error {
		ts, err := coders.Timestamp(c.run.header)
		if err != nil {
			return err
		}
		var windows []byte
		for _, size := range sizes {
			start := ts - ts%size
			windows = windowing.Interval{Start: start, End: start + size}.Append(windows)
		}
		before := c.run.header
		c.run.header = coders.AppendHeader(nil, ts, len(sizes), windows, []byte{coders.PaneNoFiring})
		c.emit(c.element)
		c.run.header = before
		return nil
	}
}

// sideIn reads the values of a side input of KVs in a window.
func (c *call) sideIn(local string, window []byte) (string, error) {
	data, err := c.bundle.StateGet(&fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{
		IterableSideInput: &fnpb.StateKey_IterableSideInput{TransformId: c.transform, SideInputId: local, Window: window}}})
	if err != nil {
		return "", err
	}
	var all []string
	for i := 0; len(data) > 0; i++ {
		n, k := binary.Uvarint(data)
		if i%2 == 1 {
			all = append(all, string(data[k:k+int(n)]))
		}
		data = data[k+int(n):]
	}
	slices.Sort(all)
	return strings.Join(all, ","), nil
}

// sidePipeline is a TestStream of "main" and "side", each put in windows, and "use", which
// reads the side in the window of the main input that holds the end of its own.
type sidePipeline struct {
	*program
	j journal
}

func newSidePipeline(t *testing.T, mainSize, sideSize int64, trigger *pipepb.Trigger, also []int64, events ...*pipepb.TestStreamPayload_Event) *sidePipeline {
	p := portabletest.New()
	outs := testStream(p, "test", []string{"main", "side"}, events...)
	into := func(name, in, strategy string) string {
		out := p.ParDo(name, pEnv, pKV, in)
		pc := p.Proto.Components.Pcollections[out]
		pc.WindowingStrategyId, pc.IsBounded = strategy, pipepb.IsBounded_UNBOUNDED
		return out
	}
	main := into("into main", outs[0], fixedWindows(p, "main", mainSize, nil))
	side := into("into side", outs[1], fixedWindows(p, "side", sideSize, trigger))
	use := p.ParDo("use", pEnv, pKV, main, side)
	p.Proto.Components.Pcollections[use].WindowingStrategyId = "main"
	mapTo(t, p.Get("use"), urns.WindowMappingAssignMaxTimestamp)
	timed := p.ParDoWith("timed", pEnv, payloadOf("f", "clock"), pBytes, use)
	p.Proto.Components.Pcollections[timed].WindowingStrategyId = "main"
	s := &sidePipeline{}
	s.program = compile(t, p, map[string]doFn{
		"test/Encode/main": unprefix, "test/Encode/side": unprefix,
		"into main": windowInto(append([]int64{mainSize}, also...)...),
		"into side": windowInto(sideSize),
		"use": func(c *call) error {
			var el coders.Element
			if err := c.run.stage(c.bundle).In[0].Coder.Next(append(slices.Clone(c.run.header), c.element...), &el); err != nil {
				return err
			}
			for rest := el.Windows; len(rest) > 0; {
				w, n, err := windowing.DecodeInterval(rest)
				if err != nil {
					return err
				}
				rest = rest[n:]
				start := w.MaxTimestamp() - w.MaxTimestamp()%sideSize
				found, err := c.sideIn("i1", windowing.Interval{Start: start, End: start + sideSize}.Append(nil))
				if err != nil {
					return err
				}
				s.j.note("", "%s in [%d, %d) reads [%s]", c.value(), w.Start, w.End, found)
			}
			c.emit(c.element)
			return nil
		},
		"timed": func(c *call) error {
			if c.timer != nil {
				s.j.note("", "timer of %s", text(c.run.key))
				return nil
			}
			c.set("f", "", 5, 5)
			return nil
		},
	})
	return s
}

func mapTo(t *testing.T, transform *pipepb.PTransform, urn string) {
	var parDo pipepb.ParDoPayload
	if err := proto.Unmarshal(transform.Spec.Payload, &parDo); err != nil {
		t.Fatal(err)
	}
	for _, side := range parDo.SideInputs {
		side.WindowMappingFn = &pipepb.FunctionSpec{Urn: urn}
	}
	var err error
	if transform.Spec.Payload, err = proto.Marshal(&parDo); err != nil {
		t.Fatal(err)
	}
}

func (s *sidePipeline) want(t *testing.T, lines ...string) {
	t.Helper()
	newRig(t, s.script).mustRun(s.plan)
	got := s.j.lines[""]
	for i := 1; i < len(got); i++ { // timers of a time fire in no order
		for k := i; k > 0 && strings.HasPrefix(got[k], "timer") && strings.HasPrefix(got[k-1], "timer") && got[k] < got[k-1]; k-- {
			got[k], got[k-1] = got[k-1], got[k]
		}
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Elements wait for the windows that they read, and no others do. Those windows are ready with
// their first pane, or empty once the watermark has passed them. What waits holds the watermark.
func TestElementsWaitByWindow(t *testing.T) {
	newSidePipeline(t, 10, 20, nil, nil,
		elements("main", "a=1@1", "b=2@11", "c=3@21"),
		watermark("main", 25),
		elements("side", "k=x@2", "k=y@12", "k=z@45"),
		watermark("side", 20),               // fires [0, 20) on time
		elements("main", "d=4@3", "e=5@41"), // the first is too late: nobody keeps its window
		watermark("side", 40),               // [20, 40) is empty
		elements("main", "f=6@22"),
		watermark("side", 100),
	).want(t,
		"1 in [0, 10) reads [x,y]", "2 in [10, 20) reads [x,y]",
		"timer of a", "timer of b",
		"3 in [20, 30) reads []", "timer of c",
		"6 in [20, 30) reads []", "timer of f",
		"5 in [40, 50) reads [z]", "timer of e",
	)
}

// The latest pane is what a window has.
func TestLatestPaneIsRead(t *testing.T) {
	newSidePipeline(t, 100, 100, onceAndAgain, nil,
		elements("main", "a=1@1"),
		elements("side", "k=x@2"),
		elements("main", "b=2@3"),
		elements("side", "k=y@12"),
		elements("main", "c=3@4"),
	).want(t,
		"1 in [0, 100) reads [x]", "2 in [0, 100) reads [x]", "3 in [0, 100) reads [y]",
		"timer of a", "timer of b", "timer of c",
	)
}

// An element in several windows is processed in each when that is ready.
func TestElementsAreExplodedIntoWindows(t *testing.T) {
	newSidePipeline(t, 10, 10, nil, []int64{30, 40},
		elements("main", "a=1@1"),
		elements("side", "k=x@2", "k=y@22", "k=z@33"),
		watermark("side", 30),
		watermark("side", 40),
	).want(t,
		"1 in [0, 10) reads [x]", "1 in [0, 30) reads [y]", "1 in [0, 40) reads [z]",
		"timer of a", "timer of a", "timer of a",
	)
}
