package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// largeShuffle is a pipeline whose readers know state-backed iterables. All of n elements
// have one key and size bytes, but each tenth, which is small and has one of its own.
func largeShuffle(t testing.TB, n, size int) *program {
	p := portabletest.New()
	env := p.Proto.Components.Environments[pEnv]
	env.Capabilities = append(env.Capabilities, urns.CoderStateBackedIterable)
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, numbers))
	groups := p.GroupByKey("group", kvs)
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, groups))
	p.ParDo("again", pEnv, pBytes, groups)
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

// ungroupLarge emits what is in a group, and reads it twice if it is state-backed.
func ungroupLarge(c *call) error {
	key := text(c.element)
	rest := c.element[len(bytesOf(key)):]
	if binary.BigEndian.Uint32(rest) != math.MaxUint32 {
		return ungroup(c)
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
