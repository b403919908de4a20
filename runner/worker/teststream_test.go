package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/frame"
)

// elements, watermark and pass are events of a TestStream. An element is "key=value@ms".
func elements(tag string, list ...string) *pipepb.TestStreamPayload_Event {
	add := &pipepb.TestStreamPayload_Event_AddElements{Tag: tag}
	for _, e := range list {
		var ts int64
		kv, at, _ := strings.Cut(e, "@")
		fmt.Sscan(at, &ts)
		key, value, _ := strings.Cut(kv, "=")
		add.Elements = append(add.Elements, &pipepb.TestStreamPayload_TimestampedElement{EncodedElement: kvOf(key, value), Timestamp: ts})
	}
	return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ElementEvent{ElementEvent: add}}
}

func watermark(tag string, ms int64) *pipepb.TestStreamPayload_Event {
	return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_WatermarkEvent{
		WatermarkEvent: &pipepb.TestStreamPayload_Event_AdvanceWatermark{Tag: tag, NewWatermark: ms}}}
}

func pass(d time.Duration) *pipepb.TestStreamPayload_Event {
	return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ProcessingTimeEvent{
		ProcessingTimeEvent: &pipepb.TestStreamPayload_Event_AdvanceProcessingTime{AdvanceDuration: d.Milliseconds()}}}
}

// testStream adds a TestStream of KVs with an output for each tag, and returns those.
func testStream(p *portabletest.Pipeline, name string, tags []string, events ...*pipepb.TestStreamPayload_Event) (outs []string) {
	payload := &pipepb.TestStreamPayload{CoderId: pKV, Events: events}
	p.Transform(name, urns.TransformTestStream, "", payload, pKV)
	to := map[string]string{}
	for _, tag := range tags {
		to[tag] = name + "." + tag
		p.PCollection(to[tag], pKV).IsBounded = pipepb.IsBounded_UNBOUNDED
		outs = append(outs, to[tag])
	}
	p.Get(name).Outputs = to
	return outs
}

// unprefix is what the SDK does to the elements of a TestStream.
func unprefix(c *call) error {
	c.emit([]byte(text(c.element)))
	return nil
}

// Events happen one after the other: all that an event leads to, downstream and in other
// branches, comes before the next one. Event time goes by the watermark of each output,
// processing time by the stream, and once there are no events left by itself.
func TestStreamsActInOrder(t *testing.T) {
	p := portabletest.New()
	outs := testStream(p, "test", []string{"a", "b"},
		elements("a", "k=1@10"),
		elements("b", "k=2@20"),
		watermark("a", 31),
		elements("a", "k=late@0"),
		pass(time.Hour),
		watermark("b", 31),
		elements("b", "k=3@50", "k=4@60"),
		pass(time.Minute),
	)
	var j journal
	fns := map[string]doFn{"test/Encode/a": unprefix, "test/Encode/b": unprefix}
	for i, out := range outs {
		name := string(rune('a' + i))
		spread := p.Reshuffle("spread "+name, pKV, p.ParDo("through "+name, pEnv, pKV, out))
		p.ParDo("sink "+name, pEnv, pBytes, p.ParDoWith(name, pEnv, payloadOf("f", "clock"), pBytes, spread))
		fns["through "+name] = func(c *call) error {
			c.emit(c.element)
			return nil
		}
		fns[name] = func(c *call) error {
			if c.timer != nil {
				j.note("", "%s: %s fires", name, c.timer.family)
				c.emit(bytesOf(c.timer.family))
				return nil
			}
			j.note("", "%s: %s", name, c.value())
			if v := c.value(); v == "1" || v == "2" {
				c.set("f", "", 30, 30)
				c.set("clock", "", time.Now().Add(30*time.Minute).UnixMilli(), frame.MaxTimestamp-1)
			} else if v == "4" {
				c.set("clock", "", hour(), frame.MaxTimestamp-1)
			}
			c.emit(bytesOf(c.value()))
			return nil
		}
		fns["sink "+name] = func(c *call) error {
			j.note("", "%s: %s is through", name, text(c.element))
			return nil
		}
	}
	c := compile(t, p, fns)
	r := newRig(t, c.script)
	r.mustRun(c.plan)
	got := j.lines[""]
	slices.Sort(got[8:12])  // one event lets timers of both fire
	slices.Sort(got[14:18]) // and another brings two elements in one bundle
	want := []string{
		"a: 1", "a: 1 is through",
		"b: 2", "b: 2 is through",
		"a: f fires", "a: f is through",
		"a: late", "a: late is through",
		"a: clock fires", "a: clock is through", "b: clock fires", "b: clock is through",
		"b: f fires", "b: f is through",
		"b: 3", "b: 3 is through", "b: 4", "b: 4 is through",
		"b: clock fires", "b: clock is through",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStreams of one job take turns.
func TestTestStreamsTakeTurns(t *testing.T) {
	p := portabletest.New()
	a := testStream(p, "a", []string{"o"}, elements("", "k=a1@10"), elements("", "k=a2@20"), watermark("", 50))
	b := testStream(p, "b", []string{"o"}, elements("", "k=b1@10"), watermark("", 100), pass(time.Hour))
	both := p.Flatten("both", pKV, p.ParDo("from a", pEnv, pKV, a[0]), p.ParDo("from b", pEnv, pKV, b[0]))
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", both)))
	var j journal
	from := func(c *call) error {
		j.note("", "%s", c.value())
		c.emit(c.element)
		return nil
	}
	c := compile(t, p, map[string]doFn{
		"a/Encode/o": unprefix, "b/Encode/o": unprefix, "from a": from, "from b": from, "ungroup": ungroup, "write": collector,
	})
	newRig(t, c.script).mustRun(c.plan)
	got := j.lines[""]
	slices.Sort(got[:2]) // either begins
	if diff := cmp.Diff([]string{"a1", "b1", "a2"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := []string{string(bytesOf("k=a1")), string(bytesOf("k=a2")), string(bytesOf("k=b1"))}
	if diff := cmp.Diff(want, c.got("write")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
