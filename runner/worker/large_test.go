package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
	"github.com/lintelrun/lintel/statebackend/tieredstate"
)

// largeShuffle is a pipeline whose readers know state-backed iterables. All of n elements
// have one key and size bytes, but each tenth, which is small and has one of its own.
func largeShuffle(t testing.TB, n, size int) *program {
	return largeProgram(t, largePipeline(), n, size)
}

func largePipeline() *portabletest.Pipeline {
	p := portabletest.New()
	env := p.Proto.Components.Environments[pEnv]
	env.Capabilities = append(env.Capabilities, urns.CoderStateBackedIterable)
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, numbers))
	groups := p.GroupByKey("group", kvs)
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, groups))
	p.ParDo("again", pEnv, pBytes, groups)
	return p
}

func largeProgram(t testing.TB, p *portabletest.Pipeline, n, size int) *program {
	return compile(t, p, map[string]doFn{
		"split": split(n),
		"kv": func(c *call) error {
			v := text(c.element)
			if strings.HasSuffix(v, "0") {
				c.emit(kvOf("cold "+v, v))
			} else {
				c.emit(kvOf("hot", v+strings.Repeat(" ", size)))
			}
			return nil
		},
		"ungroup": ungroupLarge, "again": ungroupLarge, "write": collector,
	})
}

// largePanes is such a pipeline without end, as far as it is known: a pane leaves with each
// so many values of a key.
func largePanes(t testing.TB, n, size, values int) *program {
	p := largePipeline()
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: &pipepb.Trigger{
		Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: int32(values)}}}}}}
	ws.AccumulationMode = pipepb.AccumulationMode_DISCARDING
	p.Proto.Components.WindowingStrategies["panes"] = ws
	for _, c := range p.Proto.Components.Pcollections {
		c.WindowingStrategyId, c.IsBounded = "panes", pipepb.IsBounded_UNBOUNDED
	}
	return largeProgram(t, p, n, size)
}

// ungroupLarge emits what is in a group, and reads it twice if it is state-backed.
func ungroupLarge(c *call) error {
	key := text(c.element)
	rest := c.element[len(bytesOf(key)):]
	if binary.BigEndian.Uint32(rest) != math.MaxUint32 {
		key, values := group(c.element)
		for _, v := range values {
			c.emit(bytesOf(key + "=" + strings.TrimRight(v, " ")))
		}
		return nil
	}
	mark, n := binary.Uvarint(rest[4:])
	rest = rest[4+n:]
	size, n := binary.Uvarint(rest)
	if mark != math.MaxUint64 || len(rest) != n+int(size) {
		return fmt.Errorf("%x is no token", rest)
	}
	token := rest[n:]
	first, err := c.bundle.StateGet(runnerKey(token))
	if err != nil {
		return err
	}
	second, err := c.bundle.StateGet(runnerKey(token))
	if err != nil || !slices.Equal(first, second) {
		return fmt.Errorf("%d bytes, then %d, error %w", len(first), len(second), err)
	}
	for rest := first; len(rest) > 0; rest = rest[len(bytesOf(text(rest))):] {
		c.emit(bytesOf(key + "=" + strings.TrimRight(text(rest), " ")))
	}
	return nil
}

func runnerKey(token []byte) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: token}}}
}

func wantLarge(t *testing.T, p *program, n int) {
	t.Helper()
	var want []string
	for i := range n {
		key := "hot"
		if i%10 == 0 {
			key = fmt.Sprintf("cold %d", i)
		}
		want = append(want, string(bytesOf(fmt.Sprintf("%s=%d", key, i))))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, p.got("write")); diff != "" {
		t.Errorf("elements lost or doubled (-want +got):\n%s", diff)
	}
}

// groupStage returns the one GroupByKey stage.
func groupStage(p *program) *plan.Stage {
	for _, s := range p.plan.Stages {
		if s.Kind == plan.GroupByKey {
			return s
		}
	}
	panic("no GroupByKey")
}

func TestLargeGroupsAreReadByAllAndAgain(t *testing.T) {
	for name, size := range map[string]int{"in memory": 300, "on disk": 10_000} {
		t.Run(name, func(t *testing.T) {
			const n = 600
			p := largeShuffle(t, n, size)
			if !groupStage(p).Group.StateBacked {
				t.Fatal("groups are not state-backed")
			}
			var mu sync.Mutex
			failures := 3
			p.after = func(_ *fnapitest.Bundle, s *plan.Stage) error {
				mu.Lock()
				defer mu.Unlock()
				if failures--; failures >= 0 && s.Transforms[0] == "ungroup" {
					return errors.New("try again")
				}
				return nil
			}
			r := newRig(t, p.script)
			r.cfg.MemoryBytes = 16 << 20
			r.mustRun(p.plan)
			wantLarge(t, p, n)
			if onDisk := r.spilled > 0; onDisk != (size == 10_000) {
				t.Errorf("%d bytes were spilled", r.spilled)
			}
		})
	}
}

// Panes of many values of a key are read page by page, by all and again, however little memory
// there is, and take no room once they were.
func TestLargePanes(t *testing.T) {
	for name, c := range map[string]struct {
		size, values int
		disk         bool
	}{
		"in memory":            {1000, 100, false},
		"state on disk":        {20_000, 100, true},
		"more than the memory": {40_000, 500, true},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 600
			p := largePanes(t, n, c.size, c.values)
			group := groupStage(p)
			if !group.Group.Panes || !group.Group.StateBacked {
				t.Fatalf("panes: %t, state-backed: %t", group.Group.Panes, group.Group.StateBacked)
			}
			deployed := make(chan struct{})
			var e *execution
			var freed atomic.Bool
			p.before = func(_ *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] == "write" && freed.CompareAndSwap(false, true) {
					<-deployed
					return awaitSpools(e.large[group.Index].spools)
				}
				return nil
			}
			var failures atomic.Int32
			p.after = func(_ *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] == "ungroup" && failures.Add(1) <= 3 {
					return errors.New("try again")
				}
				return nil
			}
			r := newRig(t, p.script)
			r.cfg.MemoryBytes = 16 << 20
			if c.disk {
				disk, err := pebblestate.New(pebblestate.Config{Dir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				r.cfg.State = tieredstate.New(1<<20, disk)
				defer func() {
					if err := r.cfg.State.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			e = r.deploy(t.Context(), p.plan).(*execution)
			close(deployed)
			if err := r.wait(e); err != nil {
				t.Fatal(err)
			}
			wantLarge(t, p, n)
			if !freed.Load() || r.spilled == 0 {
				t.Errorf("%d bytes were spilled, and freed: %t", r.spilled, freed.Load())
			}
		})
	}
}

// awaitSpools waits until there have been panes and none is kept.
func awaitSpools(spools []*spool) error {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for late := time.After(patience / 2); ; {
		put, kept := uint64(0), 0
		for _, s := range spools {
			s.mu.Lock()
			put, kept = put+s.last, kept+len(s.panes)
			s.mu.Unlock()
		}
		if put > 0 && kept == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-late:
			return fmt.Errorf("%d panes of %d are kept though they were read", kept, put)
		}
	}
}

func TestForgedTokensFailTheBundle(t *testing.T) {
	p := largeShuffle(t, 600, 300)
	group := groupStage(p).Index
	p.fns["again"] = func(c *call) error {
		for _, token := range [][]byte{
			nil, {0xff}, []byte(strings.Repeat("\xff", 20)), largePrefix(group, 0), largePrefix(group, 1000), largePrefix(1000, 0),
			largePrefix(0, 0), append(largePrefix(group, 1), "0123456789abcdef"...),
		} {
			if data, err := c.bundle.StateGet(runnerKey(token)); err == nil || !strings.Contains(err.Error(), "token") {
				return fmt.Errorf("token %x gave %d bytes, error %w", token, len(data), err)
			}
		}
		return nil
	}
	newRig(t, p.script).mustRun(p.plan)
	wantLarge(t, p, 600)
}

// Groups are freed when all who read them have ended, though the job goes on.
func TestLargeGroupsAreFreed(t *testing.T) {
	p := largeShuffle(t, 600, 300)
	deployed := make(chan struct{})
	var e *execution
	p.before = func(_ *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "write" {
			return nil
		}
		<-deployed
		look := time.NewTicker(time.Millisecond)
		defer look.Stop()
		for late := time.After(patience); !freed(e, groupStage(p)); {
			select {
			case <-look.C:
			case <-late:
				return errors.New("large groups are held though nobody will read them")
			}
		}
		return nil
	}
	r := newRig(t, p.script)
	r.cfg.Attempts = 1
	e = r.deploy(t.Context(), p.plan).(*execution)
	close(deployed)
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	wantLarge(t, p, 600)
}

func freed(e *execution, s *plan.Stage) bool {
	for task := range e.large[s.Index].tasks {
		v := e.large[s.Index].tasks[task].Load()
		if v == nil {
			return false
		}
		if _, _, err := v.Read(largePrefix(s.Index, task), nil, 1); fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), "after the end") {
			return false
		}
	}
	return true
}
