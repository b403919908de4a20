package protocol

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
)

// TestScripts runs testdata/*.script: what happens to the coordinator, line by line, and indented
// below each line what it wants to be done. Lines that begin with # and empty ones are for
// the reader.
//
//	coordinator [tasks=N] [interval=D] [pause=D] [timeout=D] [failures=N] [concurrent=N] [restored=N]
//	claimed EPOCH | unclaimed TEXT      the answer to claim
//	ack EPOCH TASK...                   snapshots
//	decline EPOCH TASK TEXT
//	ended TASK                          a task is done
//	written EPOCH [TEXT]                the answer to write, or why not
//	fenced EPOCH                        the same: there is a newer generation
//	savepoint ID
//	quiet | restless TEXT               the answer to quiet
//	wait D                              time passes
func TestScripts(t *testing.T) {
	testkit.Scripts(t, *update, func(out *strings.Builder) func([]string) error {
		s := &script{now: time.Unix(0, 0), out: out}
		return func(words []string) error {
			if err := s.line(words); err != nil {
				return err
			}
			s.print()
			return nil
		}
	})
}

type script struct {
	c   *Coordinator
	now time.Time
	out *strings.Builder
}

func (s *script) line(words []string) error {
	args := words[1:]
	number := func(i int) (n uint64) {
		if i < len(args) {
			n, _ = strconv.ParseUint(args[i], 10, 64)
		}
		return n
	}
	var why error
	switch words[0] {
	case "coordinator":
		return s.start(args)
	case "claimed":
		s.c.Claimed(number(0), nil, s.now)
	case "unclaimed":
		s.c.Claimed(0, errors.New(strings.Join(args, " ")), s.now)
	case "ack":
		for i := range args[1:] {
			s.c.Ack(number(0), int(number(i+1)), Snapshot{})
		}
	case "decline":
		s.c.Decline(number(0), int(number(1)), errors.New(strings.Join(args[2:], " ")), s.now)
	case "ended":
		s.c.TaskEnded(int(number(0)))
	case "written":
		if len(args) > 1 {
			why = errors.New(strings.Join(args[1:], " "))
		}
		s.c.Written(number(0), why, s.now)
	case "fenced":
		s.c.Written(number(0), fault.New(fault.Fenced, "replaced"), s.now)
	case "savepoint":
		s.c.Savepoint(args[0])
	case "quiet":
		s.c.Quieted(nil, s.now)
	case "restless":
		s.c.Quieted(errors.New(strings.Join(args, " ")), s.now)
	case "wait":
		d, err := time.ParseDuration(args[0])
		s.now = s.now.Add(d)
		return err
	default:
		return errors.New("no such command")
	}
	return nil
}

func (s *script) start(args []string) error {
	var cfg Schedule
	tasks, restored := 1, 0
	numbers := map[string]*int{"tasks": &tasks, "failures": &cfg.MaxFailures, "concurrent": &cfg.Concurrent, "restored": &restored}
	times := map[string]*time.Duration{"interval": &cfg.Interval, "pause": &cfg.MinPause, "timeout": &cfg.Timeout}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		var err error
		switch {
		case numbers[name] != nil:
			*numbers[name], err = strconv.Atoi(value)
		case times[name] != nil:
			*times[name], err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("%q is no option", arg)
		}
		if err != nil {
			return err
		}
	}
	s.c = NewCoordinator(cfg, tasks, uint64(restored), s.now)
	return cfg.Validate()
}

func (b Begun) String() string {
	s := fmt.Sprintf("%d", b.Epoch)
	if b.Savepoint != "" {
		s += " savepoint " + b.Savepoint
	}
	return s
}

// print prints what the coordinator wants.
func (s *script) print() {
	line := func(format string, args ...any) { fmt.Fprintf(s.out, "\t"+format+"\n", args...) }
	a := s.c.Ready(s.now)
	for _, e := range a.Abort {
		line("abort %v: %v", e.Begun, e.Reason)
	}
	for _, e := range a.Complete {
		line("complete %v", e)
	}
	if a.Quiet != "" {
		line("quiet for %s", a.Quiet)
	}
	if a.Claim {
		line("claim")
	}
	for _, e := range a.Begin {
		line("begin %v over %d", e, e.Over)
	}
	if a.Write != nil {
		n := 0
		for _, snapshot := range a.Write.Snapshots {
			if snapshot != nil {
				n++
			}
		}
		line("write %v of %d tasks", a.Write.Begun, n)
	}
	if a.Fail != nil {
		line("fail: %v", a.Fail)
	}
	if !a.Wake.IsZero() {
		line("wake in %v", a.Wake.Sub(s.now))
	}
}

// A coordinator that random things happen to never has more under way than it may, completes an
// epoch only after its manifest was written with every task's answer, ends each that it began
// exactly once, and never hangs: once all answer, it goes on.
func TestCoordinatorKeepsItsWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Schedule{
			Interval: time.Second, Timeout: 5 * time.Second,
			Concurrent: rapid.IntRange(0, 3).Draw(t, "concurrent"),
		}
		tasks := rapid.IntRange(1, 4).Draw(t, "tasks")
		now := time.Unix(0, 0)
		c := NewCoordinator(cfg, tasks, 0, now)
		claims, last, completed := 0, uint64(0), 0
		begun := map[uint64]map[int]bool{} // under way, with who has answered
		ended := map[int]bool{}
		writing, quieting := uint64(0), false
		act := func() {
			a := c.Ready(now)
			for _, e := range a.Abort {
				if e.Epoch != 0 && begun[e.Epoch] == nil {
					t.Fatalf("epoch %d was aborted, and is not under way", e.Epoch)
				}
				delete(begun, e.Epoch)
			}
			for _, e := range a.Complete {
				if begun[e.Epoch] == nil {
					t.Fatalf("epoch %d is complete, and is not under way", e.Epoch)
				}
				delete(begun, e.Epoch)
				completed++
			}
			if a.Quiet != "" {
				if quieting {
					t.Fatal("sources are to hold back for two savepoints")
				}
				quieting = true
			}
			if a.Claim {
				claims++
			}
			for _, e := range a.Begin {
				begun[e.Epoch] = map[int]bool{}
			}
			if len(begun)+claims > max(cfg.Concurrent, 1)+1 { // a savepoint waits for no checkpoint
				t.Fatalf("%d under way and %d to come", len(begun), claims)
			}
			if a.Write != nil {
				if writing != 0 {
					t.Fatal("two manifests are written at once")
				}
				writing = a.Write.Epoch
				for task := range tasks {
					if !begun[writing][task] && !ended[task] {
						t.Fatalf("epoch %d lacks task %d", writing, task)
					}
				}
			}
			if len(begun) != len(c.UnderWay()) {
				t.Fatalf("%d under way, not %d as it says", len(begun), len(c.UnderWay()))
			}
		}
		ack := func(epoch uint64, task int) {
			if !ended[task] {
				c.Ack(epoch, task, Snapshot{})
				if begun[epoch] != nil {
					begun[epoch][task] = true
				}
			}
		}
		answer := func(err error) {
			switch {
			case quieting:
				quieting = false
				c.Quieted(err, now)
			case claims > 0:
				claims--
				if err != nil {
					c.Claimed(0, err, now)
					return
				}
				last++
				c.Claimed(last, nil, now)
			case writing > 0:
				n := writing
				writing = 0
				c.Written(n, err, now)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { act() },
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"answer": func(*rapid.T) { answer(nil) },
			"fail":   func(*rapid.T) { answer(errors.New("no")) },
			"ack": func(t *rapid.T) {
				ack(uint64(rapid.IntRange(0, int(last)).Draw(t, "epoch")), rapid.IntRange(0, tasks-1).Draw(t, "task"))
			},
			"decline": func(t *rapid.T) {
				c.Decline(uint64(rapid.IntRange(0, int(last)).Draw(t, "epoch")), 0, errors.New("no"), now)
			},
			"savepoint": func(*rapid.T) { c.Savepoint("s") },
			"ended": func(t *rapid.T) {
				task := rapid.IntRange(1, 4).Draw(t, "task")
				if task < tasks { // the first goes on
					ended[task] = true
					c.TaskEnded(task)
				}
			},
		})
		before := completed
		for range 20 {
			act()
			answer(nil)
			act()
			for epoch := range begun {
				for task := range tasks {
					ack(epoch, task)
				}
			}
			now = now.Add(time.Second)
		}
		if completed < before+3 {
			t.Fatalf("%d checkpoints in 20 s though all went well", completed-before)
		}
	})
}

func TestScheduleIsChecked(t *testing.T) {
	for _, bad := range []Schedule{{Interval: -1}, {MinPause: 1, Concurrent: 2}, {MaxFailures: -1}} {
		if err := bad.Validate(); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestAssemble(t *testing.T) {
	shared := File{FileID{1, 1, 0, 0}, 10, 5}
	own := File{FileID{2, 1, 1, 0}, 20, 6}
	header := Manifest{Epoch: 2, Generation: 1, KeyGroups: 8, Files: []File{{FileID{1, 1, 9, 0}, 4, 4}}, Job: Job{Pipeline: Span{0, 0, 4}}}
	tasks := []Task{{Stage: "a", Of: 2, EndGroup: 4}, {Stage: "a", Index: 1, Of: 2, FirstGroup: 4, EndGroup: 8}, {Stage: "b", Of: 1}}
	part := func(file int) Part { return Part{Kind: Inbox, Span: Span{file, 1, 2}} }
	first, second := tasks[0], tasks[1]
	first.Parts, second.Parts = []Part{part(0)}, []Part{part(0), part(1)}
	snapshots := []*Snapshot{{first, []File{shared}}, {second, []File{own, shared}}, nil}
	m, err := Assemble(header, snapshots, tasks)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]File{header.Files[0], shared, own}, m.Files); diff != "" {
		t.Error(diff)
	}
	if m.Tasks[0].Parts[0] != part(1) || m.Tasks[1].Parts[0] != part(2) || m.Tasks[1].Parts[1] != part(1) || !m.Tasks[2].Ended {
		t.Errorf("%+v", m.Tasks)
	}
	other := shared
	other.CRC32C++
	snapshots[1].Files[1] = other
	if _, err := Assemble(header, snapshots, tasks); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("two contents of one file: %v", err)
	}
}
