package worker

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/runner/frame"
)

// TestEmptyPanesCombineNothing runs a CombineFn that fails to merge no accumulators: its empty
// panes on time go through what combines no values, and on to the same readers.
func TestEmptyPanesCombineNothing(t *testing.T) {
	p := portabletest.New()
	in := testStream(p, "test", []string{"o"},
		elements("", "a=1@5", "b=2@7"),
		elements("", "a=3@9"),
		watermark("", coders.MaxTimestamp))[0]
	out := p.Combine("combine", pEnv, in)
	p.ParDo("write", pEnv, pBytes, out)
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{
		EarlyFirings: &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}}}}
	ws.AccumulationMode, ws.OnTimeBehavior = pipepb.AccumulationMode_DISCARDING, pipepb.OnTimeBehavior_FIRE_ALWAYS
	p.Proto.Components.WindowingStrategies["early"] = ws
	for _, id := range []string{in, out} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "early"
		p.Proto.Components.Pcollections[id].IsBounded = pipepb.IsBounded_UNBOUNDED
	}
	var mu sync.Mutex
	panes := map[string][]string{}
	same := func(c *call) error {
		c.emit(c.element)
		return nil
	}
	combine := func(name string) doFn {
		return func(c *call) error {
			key, values := group(c.element)
			if name == "merged" && len(values) == 0 {
				return errors.New("nothing to merge")
			}
			c.emit(kvOf(key, name+" "+strings.Join(values, " ")))
			return nil
		}
	}
	c := compileAs(t, p, portable.Options{}, map[string]doFn{
		"test/Encode/o":              unprefix,
		"combine/Precombine":         same,
		"combine/Merge":              combine("merged"),
		"combine/ExtractOutputs":     same,
		"lintel/empty/combine/Merge": combine("combined"),
		"write": func(c *call) error {
			pane, _, err := coders.DecodePane(c.run.header[12:])
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			key := text(c.element)
			timing := map[coders.Timing]string{coders.Early: "early", coders.OnTime: "on time"}[pane.Timing]
			panes[key] = append(panes[key], timing+": "+text(c.element[len(bytesOf(key)):]))
			return nil
		},
	})
	newRig(t, c.script).mustRun(c.plan)
	for key, want := range map[string][]string{
		"a": {"early: merged 1", "early: merged 3", "on time: combined "},
		"b": {"early: merged 2", "on time: combined "},
	} {
		if !slices.Equal(panes[key], want) {
			t.Errorf("%s: panes %q, want %q", key, panes[key], want)
		}
	}
}

func TestGroupsOfNothingArePartedFromOthers(t *testing.T) {
	p := portabletest.New()
	p.ParDo("write", pEnv, pBytes, p.GroupByKey("group", p.ParDo("kv", pEnv, pKV, p.Impulse("impulse"))))
	made := compile(t, p, nil).plan
	coder := made.Stages[len(made.Stages)-1].In[0].Coder
	element := func(key string, values ...string) []byte {
		body := append(bytesOf(key), 0, 0, 0, byte(len(values)))
		for _, v := range values {
			body = append(body, bytesOf(v)...)
		}
		return windowed(5, body)
	}
	full := [][]byte{element("a", "1"), element("b", "", "2"), element("\x00\x00\x00\x00", "3")}
	none := [][]byte{element("c"), element("")}
	for name, order := range map[string][][]byte{
		"full": full, "empty": none, "nothing": nil,
		"both":      {full[0], none[0], full[1], full[2], none[1]},
		"the other": {none[0], none[1], full[0], full[1], full[2]},
	} {
		in := frame.Frame{Data: slices.Concat(order...), Elements: len(order), MinTimestamp: 5, Remote: 7}
		gotFull, gotNone, err := partGroups(coder, in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var wantFull, wantNone []byte
		for _, e := range order {
			if slices.ContainsFunc(none, func(n []byte) bool { return string(n) == string(e) }) {
				wantNone = append(wantNone, e...)
			} else {
				wantFull = append(wantFull, e...)
			}
		}
		if string(gotFull.Data) != string(wantFull) || string(gotNone.Data) != string(wantNone) ||
			gotFull.Elements+gotNone.Elements != in.Elements || gotFull.Elements > 0 != (len(wantFull) > 0) {
			t.Errorf("%s: %v and %v", name, gotFull, gotNone)
		}
		if gotFull.Empty || !gotNone.Empty || gotFull.MinTimestamp != 5 || gotNone.MinTimestamp != 5 || gotFull.Remote != 7 || gotNone.Remote != 0 {
			t.Errorf("%s: %v and %v", name, gotFull, gotNone)
		}
	}
	if _, _, err := partGroups(coder, frame.Frame{Data: []byte{1, 2, 3}, Elements: 1}); err == nil {
		t.Error("garbage is parted")
	}
}
