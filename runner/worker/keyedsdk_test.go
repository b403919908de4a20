package worker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// What the fake SDK knows of state and timers.

// firing is a timer that fires.
type firing struct {
	family, tag string
	fire, hold  int64
}

func (r *running) fire(in fnapitest.Input) error {
	layout := r.stage(r.bundle).Exec.Stateful.Layout
	var v coders.Timer
	for rest := in.Data; len(rest) > 0; rest = rest[v.Size:] {
		if err := layout.Next(rest, &v); err != nil {
			return err
		}
		r.header, r.key, r.window = coders.AppendHeader(nil, v.Hold, 1, v.Windows, v.Pane), v.Key, v.Windows
		c := &call{transform: in.Transform, timer: &firing{in.Timer, string(v.Tag), v.Fire, v.Hold}}
		if err := r.invoke(c, r.bundle.Descriptor.GetTransforms()[in.Transform],
			fmt.Sprintf("%s%s %s %d", v.Key, in.Timer, v.Tag, min(v.Fire, 99))); err != nil {
			return err
		}
	}
	return nil
}

func (r *running) sendTimers() error {
	for to, data := range r.timers {
		size := r.chunk
		if size == 0 {
			size = 1 << 20
		}
		for chunk := range slices.Chunk(data, size) {
			if err := r.bundle.EmitTimers(to[0], to[1], chunk); err != nil {
				return err
			}
		}
	}
	return nil
}

// history is what a transform has processed of a key in bundles that succeeded,
// in their order: "element", or the family, tag and time (99 at most) of a timer.
func (p *program) history(transform, key string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, line := range p.collected[transform] {
		if rest, ok := strings.CutPrefix(line, string(bytesOf(key))); !ok {
			continue
		} else if strings.Contains(rest, " ") {
			out = append(out, rest)
		} else {
			out = append(out, "element")
		}
	}
	return out
}

// key of the element or timer that is processed, and the value of an element.
func (c *call) key() string   { return text(c.run.key) }
func (c *call) value() string { return text(c.element[len(c.run.key):]) }

// at makes what is emitted next be of a time and window.
func (c *call) at(ts int64, window []byte) {
	c.run.header = coders.AppendHeader(nil, ts, 1, window, []byte{coders.PaneNoFiring})
}

func (c *call) change(family, tag string, v coders.Timer) {
	v.Key, v.Tag, v.NumWindows, v.Windows, v.Pane = c.run.key, []byte(tag), 1, c.run.window, []byte{coders.PaneNoFiring}
	if c.run.timers == nil {
		c.run.timers = map[[2]string][]byte{}
	}
	to := [2]string{c.transform, family}
	c.run.timers[to] = v.Append(c.run.timers[to])
}

func (c *call) set(family, tag string, fire, hold int64) {
	c.change(family, tag, coders.Timer{Fire: fire, Hold: hold})
}

func (c *call) unset(family, tag string) { c.change(family, tag, coders.Timer{Clear: true}) }

func (c *call) bag(state string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: c.transform, UserStateId: state, Key: c.run.key, Window: c.run.window}}}
}

func (c *call) multimap(state, mapKey string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapUserState_{MultimapUserState: &fnpb.StateKey_MultimapUserState{
		TransformId: c.transform, UserStateId: state, Key: c.run.key, Window: c.run.window, MapKey: bytesOf(mapKey)}}}
}

func (c *call) multimapKeys(state string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysUserState_{MultimapKeysUserState: &fnpb.StateKey_MultimapKeysUserState{
		TransformId: c.transform, UserStateId: state, Key: c.run.key, Window: c.run.window}}}
}

func (c *call) orderedList(state string, from, to int64) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_OrderedListUserState_{OrderedListUserState: &fnpb.StateKey_OrderedListUserState{
		TransformId: c.transform, UserStateId: state, Key: c.run.key, Window: c.run.window,
		Range: &fnpb.OrderedListRange{Start: from, End: to}}}}
}

// wantState says what is wrong with what a state holds.
func (c *call) wantState(what string, key *fnpb.StateKey, want string) error {
	got, err := c.bundle.StateGet(key)
	if err == nil && string(got) != want {
		err = fmt.Errorf("%s of %s holds %q, not %q", what, c.key(), got, want)
	}
	return err
}

// payloadOf declares states and timer families, "clock" of processing time, "end"
// for the end of windows.
func payloadOf(families ...string) *pipepb.ParDoPayload {
	p := &pipepb.ParDoPayload{
		StateSpecs:       map[string]*pipepb.StateSpec{},
		TimerFamilySpecs: map[string]*pipepb.TimerFamilySpec{},
	}
	for _, state := range []string{"bag", "value", "gone", "never"} {
		p.StateSpecs[state] = &pipepb.StateSpec{Spec: &pipepb.StateSpec_BagSpec{BagSpec: &pipepb.BagStateSpec{ElementCoderId: pBytes}}}
	}
	for _, state := range []string{"map", "dropped", "other"} {
		p.StateSpecs[state] = &pipepb.StateSpec{Spec: &pipepb.StateSpec_MultimapSpec{
			MultimapSpec: &pipepb.MultimapStateSpec{KeyCoderId: pBytes, ValueCoderId: pBytes}}}
	}
	p.StateSpecs["list"] = &pipepb.StateSpec{Spec: &pipepb.StateSpec_OrderedListSpec{
		OrderedListSpec: &pipepb.OrderedListStateSpec{ElementCoderId: pBytes}}}
	for _, f := range families {
		spec := &pipepb.TimerFamilySpec{TimeDomain: pipepb.TimeDomain_EVENT_TIME}
		switch f {
		case "clock":
			spec.TimeDomain = pipepb.TimeDomain_PROCESSING_TIME
		case "end":
			p.OnWindowExpirationTimerFamilySpec = f
		}
		p.TimerFamilySpecs[f] = spec
	}
	return p
}

// stateful is a pipeline of n numbers, spread, made KVs of k keys, which go
// through the stateful "s" to "write".
func stateful(t testing.TB, n, k int, s doFn, families ...string) *program {
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, numbers))
	p.ParDo("write", pEnv, pBytes, p.ParDoWith("s", pEnv, payloadOf(families...), pBytes, kvs))
	return compile(t, p, map[string]doFn{"split": split(n), "kv": modulo(k), "s": s, "write": collector})
}

// journal is what doFns note, by key, in order.
type journal struct {
	mu    sync.Mutex
	lines map[string][]string
}

func (j *journal) note(key, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lines == nil {
		j.lines = map[string][]string{}
	}
	j.lines[key] = append(j.lines[key], fmt.Sprintf(format, args...))
}
