package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// journaled returns the lines of a journal.
func journaled(j *journal) func() []string {
	return func() []string {
		j.mu.Lock()
		defer j.mu.Unlock()
		var all []string
		for key, lines := range j.lines {
			for _, line := range lines {
				all = append(all, key+": "+line)
			}
		}
		return all
	}
}

func written(p *program) func() []string { return func() []string { return p.got("write") } }

// totals counts the elements of each key, and says so when all have come.
func totals(c *call) error {
	if c.timer == nil {
		c.set("f", "", 1000, 1000)
		return c.bundle.StateAppend(c.bag("bag"), []byte{'x'})
	}
	bag, err := c.bundle.StateGet(c.bag("bag"))
	c.emit(bytesOf(fmt.Sprintf("%s has %d", c.key(), len(bag))))
	return err
}

// earlyPanes is a TestStream whose elements are grouped in panes as time goes by.
func earlyPanes(t *testing.T) (*program, func() []string) {
	p := portabletest.New()
	p.Proto.Components.WindowingStrategies[portabletest.Global].AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	p.Proto.Components.WindowingStrategies[portabletest.Global].Trigger = early(5 * time.Minute)
	var events []*pipepb.TestStreamPayload_Event
	for i := range 12 {
		events = append(events, elements("", fmt.Sprintf("k=%d@%d", i, i), fmt.Sprintf("j=%d@%d", i, 2*i)), pass(2*time.Minute))
	}
	out := testStream(p, "test", []string{"o"}, append(events, watermark("", coders.MaxTimestamp))...)[0]
	groups := p.GroupByKey("group", out)
	p.ParDo("write", pEnv, pBytes, groups)
	p.Proto.Components.Pcollections[groups].IsBounded = pipepb.IsBounded_UNBOUNDED
	j := &journal{}
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
	return c, journaled(j)
}

// recoverable is a job that is to give the same whatever happens to it.
type recoverable struct {
	made func(t *testing.T) (p *program, got func() []string)
	with []protocol.PartKind // that its checkpoints have
}

// recoverables are jobs whose checkpoints have all kinds of parts.
func recoverables() map[string]recoverable {
	return map[string]recoverable{
		"timers": {func(t *testing.T) (*program, func() []string) {
			p := stateful(t, 150, 7, totals, "f")
			return p, written(p)
		}, []protocol.PartKind{protocol.State, protocol.Inbox}},
		"panes of a TestStream": {earlyPanes, []protocol.PartKind{protocol.State, protocol.Position}},
		"waiting for windows": {func(t *testing.T) (*program, func() []string) {
			s := newSidePipeline(t, 10, 20, nil, nil,
				elements("main", "a=1@1", "b=2@11", "c=3@21"), watermark("main", 25),
				elements("side", "k=x@2", "k=y@12", "k=z@45"), watermark("side", 20),
				elements("main", "d=4@3", "e=5@41"), watermark("side", 40), elements("main", "f=6@22"), watermark("side", 100),
			)
			return s.program, journaled(&s.j)
		}, []protocol.PartKind{protocol.State, protocol.Position, protocol.Parked}},
		"large panes": {func(t *testing.T) (*program, func() []string) {
			p := largePanes(t, 300, 3000, 50)
			return p, written(p)
		}, []protocol.PartKind{protocol.State, protocol.Position, protocol.Spool}},
		"residuals": {func(t *testing.T) (*program, func() []string) {
			p, _ := countdown(t, "20", 2*time.Millisecond)
			return p, written(p)
		}, []protocol.PartKind{protocol.Residuals}},
		"output without credit": {func(t *testing.T) (*program, func() []string) {
			p := shuffle(t, 120, 7, func(c *call) error {
				c.emit(kvOf("k"+text(c.element)[:1], text(c.element)+strings.Repeat(" ", 200<<10)))
				return nil
			})
			p.fns["ungroup"] = slowly(10*time.Millisecond, whole)
			return p, func() []string {
				var lines []string
				for _, line := range p.got("write") {
					lines = append(lines, strings.Join(strings.Fields(line), " "))
				}
				return lines
			}
		}, []protocol.PartKind{protocol.Outbox}},
		"sorted input": {func(t *testing.T) (*program, func() []string) {
			p := stateful(t, 150, 7, count)
			for _, s := range p.plan.Stages {
				if s.Exec != nil && s.Exec.Stateful != nil {
					s.Exec.Stateful.TimeSorted = true
				}
			}
			return p, written(p)
		}, []protocol.PartKind{protocol.State}},
	}
}
