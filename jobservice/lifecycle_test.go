package jobservice_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/jobservice"
)

// successors repeats the life cycle as beam_job_api.proto and DESIGN have it.
var successors = map[jobservice.State][]jobservice.State{
	stopped:    {starting, cancelled},
	starting:   {running, failed, cancelling},
	running:    {done, failed, cancelling, draining, cancelled},
	draining:   {drained, failed, cancelling},
	cancelling: {cancelled},
}

func TestEveryHistoryIsAPathOfTheLifeCycle(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	op := rapid.SampledFrom([]string{"run", "running", "message", "cancel", "drain", "done", "fail", "stop", "stop drained"})
	rapid.Check(t, func(rt *rapid.T) {
		ops := rapid.SliceOfN(op, 1, 8).Draw(rt, "ops")
		concurrent := rapid.Bool().Draw(rt, "concurrent")
		id := r.prepare(t)
		early, err := r.client.GetMessageStream(t.Context(), &jobpb.JobMessagesRequest{JobId: id})
		if err != nil {
			rt.Fatal(err)
		}
		job := r.executor.get(id)
		var wg sync.WaitGroup
		for _, op := range ops {
			step := func() { apply(r, id, job, op) }
			if concurrent {
				wg.Go(step)
			} else {
				step()
			}
		}
		wg.Wait()
		apply(r, id, job, "cancel") // whatever has not ended does now

		seen := readAll(t, early)
		if diff := cmp.Diff(seen, r.watch(t, id), protocmp.Transform()); diff != "" {
			rt.Fatalf("late subscriber (-early +late):\n%s", diff)
		}
		checkHistory(rt, seen)
	})
}

func apply(r *rig, id string, job *run, op string) {
	ctx := context.Background()
	switch op {
	case "run":
		r.client.Run(ctx, &jobpb.RunJobRequest{PreparationId: id})
	case "cancel":
		r.client.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id})
	case "drain":
		r.client.Drain(ctx, &jobpb.DrainJobRequest{JobId: id})
	case "stop", "stop drained":
		r.Stop(ctx, id, "", op == "stop drained")
	case "done":
		job.end(nil)
	case "fail":
		job.end(errors.New("boom"))
	default:
		select {
		case <-job.started:
		default:
			return
		}
		if op == "running" {
			job.sink.Running()
		} else {
			job.sink.Message(slog.LevelError, "something")
		}
	}
}

func checkHistory(rt *rapid.T, seen []*jobpb.JobMessagesResponse) {
	states := statesOf(seen)
	if len(states) == 0 || states[0] != stopped {
		rt.Fatalf("history begins with %v", states)
	}
	for i, s := range states[1:] {
		if !slices.Contains(successors[states[i]], s) {
			rt.Fatalf("%v follows %v in %v", s, states[i], states)
		}
	}
	last := states[len(states)-1]
	if len(successors[last]) > 0 || !jobservice.Terminal(last) {
		rt.Fatalf("history ends with %v, which isn't terminal", last)
	}
	if seen[len(seen)-1].GetStateResponse() == nil {
		rt.Fatalf("something follows the terminal state")
	}
	wantErrors := 0
	if last == failed {
		wantErrors = 1
	}
	if got := errorsOf(seen); len(got) != wantErrors {
		rt.Fatalf("%v with errors %q", last, got)
	}
}

func TestSlowSubscriberHoldsNothingUp(t *testing.T) {
	const sent = 20_000
	r := newRig(t, jobservice.Config{MaxMessages: 500}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	slow, err := r.client.GetMessageStream(t.Context(), &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	job.sink.Message(slog.LevelError, "first error")
	padding := strings.Repeat("x", 1000)
	for i := range sent {
		job.sink.Message(slog.LevelInfo, fmt.Sprintf("message %d %s", i, padding))
	}
	job.end(errors.New("boom"))
	late := r.watch(t, id) // to the end, before the slow one has read anything
	for name, seen := range map[string][]*jobpb.JobMessagesResponse{"slow": readAll(t, slow), "late": late} {
		if states := statesOf(seen); !slices.Equal(states, []jobservice.State{stopped, starting, failed}) {
			t.Errorf("%s subscriber sees states %v", name, states)
		}
		if got := errorsOf(seen); !slices.Equal(got, []string{"boom"}) {
			t.Errorf("%s subscriber sees errors %q", name, got)
		}
		var texts []string
		for _, m := range seen {
			texts = append(texts, m.GetMessageResponse().GetMessageText())
		}
		all := strings.Join(texts, "\n")
		for _, want := range []string{"first error", fmt.Sprintf("message %d ", sent-1), "older messages are gone"} {
			if !strings.Contains(all, want) {
				t.Errorf("%s subscriber misses %q among its %d events", name, want, len(seen))
			}
		}
	}
	if len(late) > 500+10 {
		t.Errorf("the log keeps %d events, more than the 500 allowed", len(late))
	}
}

func TestTextThatIsNoProtoStringIsMended(t *testing.T) {
	r := newRig(t, jobservice.Config{MaxTextBytes: 1000}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Message(slog.LevelInfo, "bad \xff byte")
	job.end(errors.New("head" + strings.Repeat("é", 5000) + "tail"))
	messages := r.watch(t, id)
	got := errorsOf(messages)
	if len(got) != 1 || len(got[0]) > 1100 || !strings.HasPrefix(got[0], "head") || !strings.HasSuffix(got[0], "tail") {
		t.Errorf("failure %q", got)
	}
}
