package worker

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/runner/timers"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
	"github.com/lintelrun/lintel/statebackend/tieredstate"
)

// BenchmarkKeys gives many keys a bag of 500 bytes and a timer each, in bundles of 1,000 keys; then
// all timers fire, in bundles as well that read and clear the bags. It is what the runner does for
// the state of a job, without the harness. An operation is one key; make bench-state runs it with
// more keys than fit into memory.
func BenchmarkKeys(b *testing.B) {
	disk := func(b *testing.B) statebackend.Backend {
		d, err := pebblestate.New(pebblestate.Config{Dir: b.TempDir(), CacheBytes: 96 << 20})
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		name string
		open func(b *testing.B) statebackend.Backend
	}{
		{"auto", func(b *testing.B) statebackend.Backend { return tieredstate.New(64<<20, disk(b)) }},
		{"pebble", disk},
		{"memory", func(*testing.B) statebackend.Backend { return memstate.New() }},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkKeys(b, c.open(b)) })
	}
}

func benchmarkKeys(b *testing.B, backend statebackend.Backend) {
	spec := &plan.StatefulSpec{}
	for _, s := range stateful(b, 1, 1, count, "f").plan.Stages {
		if s.Exec != nil && s.Exec.Stateful != nil {
			spec = s.Exec.Stateful
		}
	}
	t := &task{e: &execution{cfg: Config{State: backend}, clock: newClock(&plan.Plan{}), timers: timers.NewMemory(32 << 20), d: rpc.Deployment{JobID: "bench", Parallelism: 1}}, stage: &plan.Stage{ID: "s", Parallelism: 1}}
	k, err := t.openKeyed(b.Context(), spec, nil)
	if err != nil {
		b.Fatal(err)
	}
	const bundle = 1000
	value := bytes.Repeat([]byte("lintel "), 500/7)
	b.ReportAllocs()
	b.ResetTimer()
	cpu := processorTime(b)
	for i := 0; i < b.N; i += bundle {
		inBundle(b, k, nil, func(a *keyedAttempt) {
			for j := i; j < min(i+bundle, b.N); j++ {
				key := bytesOf(fmt.Sprintf("key%08d", j*7919%b.N))
				bag := bagKey("bag", key)
				if data, _, err := a.get(bag, nil); err != nil || len(data) > 0 {
					b.Fatalf("%d bytes, %v", len(data), err)
				}
				if err := a.add(bag, value); err != nil {
					b.Fatal(err)
				}
				a.output.changes = append(a.output.changes, engine.TimerChange{Timer: engine.Timer{
					Key: string(key), Fire: int64(j % 1000), Hold: int64(j % 1000), Pane: []byte{coders.PaneNoFiring}}})
			}
		})
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "set/s")
	set, setCPU := b.Elapsed(), processorTime(b)
	b.ReportMetric(float64((setCPU-cpu).Microseconds())/float64(b.N), "cpu-us/set")
	fired := 0
	for {
		due, err := k.timers.Due(frame.MaxTimestamp, time.Time{}, bundle)
		if err != nil {
			b.Fatal(err)
		}
		if len(due) == 0 {
			break
		}
		fired += len(due)
		inBundle(b, k, due, func(a *keyedAttempt) {
			for _, v := range due {
				bag := bagKey("bag", []byte(v.Key))
				if data, _, err := a.get(bag, nil); err != nil || len(data) != len(value) {
					b.Fatalf("key %q has %d bytes, %v", v.Key, len(data), err)
				}
				if err := a.clear(bag); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.ReportMetric(float64(b.N)/(b.Elapsed()-set).Seconds(), "fired/s")
	if fired != b.N {
		b.Fatalf("%d of %d timers have fired", fired, b.N)
	}
	b.ReportMetric(float64((processorTime(b)-setCPU).Microseconds())/float64(b.N), "cpu-us/fired")
	b.ReportMetric(peakMemory(b), "peak-MB")
	if err := k.close(); err != nil {
		b.Fatal(err)
	}
}

func inBundle(b *testing.B, k *keyed, fired []engine.Timer, do func(a *keyedAttempt)) {
	a, err := k.begin(len(fired) > 0)
	if err != nil {
		b.Fatal(err)
	}
	do(a)
	if err := a.conclude(nil, &engine.Bundle{Timers: fired}); err != nil {
		b.Fatal(err)
	}
	if err := a.end(); err != nil {
		b.Fatal(err)
	}
	if err := k.commit(a); err != nil {
		b.Fatal(err)
	}
}

func bagKey(state string, key []byte) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: "s", UserStateId: state, Key: key}}}
}

// processorTime is what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMemory is the most that the process has had resident, in MB, 0 where that is not known.
func peakMemory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kb float64
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				b.Fatal(err)
			}
			return kb / 1024
		}
	}
	return 0
}
