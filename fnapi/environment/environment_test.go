package environment

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// fake is a launcher whose workers are nothing but a channel.
type fake struct {
	launch func(ctx context.Context, r Request) error // may be nil
	check  error
	stop   func(ctx context.Context) error // may be nil

	mu       sync.Mutex
	launched []Request
	stopped  int
}

func (f *fake) Launch(ctx context.Context, r Request) (Worker, error) {
	if f.launch != nil {
		if err := f.launch(ctx, r); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.launched = append(f.launched, r)
	return &fakeWorker{f: f, done: make(chan struct{})}, nil
}

func (f *fake) Check(*pipepb.Environment) error { return f.check }

type fakeWorker struct {
	f    *fake
	once sync.Once
	done chan struct{}
}

func (w *fakeWorker) Done() <-chan struct{} { return w.done }
func (w *fakeWorker) Err() error            { return nil }

func (w *fakeWorker) Stop(ctx context.Context) error {
	if w.f.stop != nil {
		if err := w.f.stop(ctx); err != nil {
			return err
		}
	}
	w.once.Do(func() {
		w.f.mu.Lock()
		w.f.stopped++
		w.f.mu.Unlock()
		close(w.done)
	})
	return nil
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func anyOf(t *testing.T, envs ...*pipepb.Environment) *pipepb.Environment {
	t.Helper()
	return &pipepb.Environment{Urn: URNAnyOf, Payload: marshal(t, &pipepb.AnyOfEnvironmentPayload{Environments: envs})}
}

func TestSetPicksByURN(t *testing.T) {
	docker := &pipepb.Environment{Urn: URNDocker, Payload: marshal(t, &pipepb.DockerPayload{ContainerImage: "apache/beam:9"})}
	proc, ext := &pipepb.Environment{Urn: URNProcess}, &pipepb.Environment{Urn: URNExternal}
	for name, c := range map[string]struct {
		env   *pipepb.Environment
		urn   string // of the environment launched, empty if refused
		class fault.Class
		holds []string
	}{
		"process":     {env: proc, urn: URNProcess},
		"external":    {env: ext, urn: URNExternal},
		"unknown":     {env: docker, class: fault.Unsupported, holds: []string{"apache/beam:9", URNExternal + ", " + URNProcess}},
		"unresolved":  {env: anyOf(t, proc), class: fault.Unsupported, holds: []string{URNAnyOf}},
		"without URN": {env: &pipepb.Environment{}, class: fault.Unsupported, holds: []string{"without URN"}},
		"missing":     {env: nil, class: fault.Unsupported, holds: []string{"without URN"}},
	} {
		t.Run(name, func(t *testing.T) {
			launchers := map[string]*fake{URNProcess: {}, URNExternal: {}}
			s := NewSet(map[string]Launcher{URNProcess: launchers[URNProcess], URNExternal: launchers[URNExternal]})
			checked := s.Check(c.env)
			_, err := s.Launch(t.Context(), Request{WorkerID: "w", Environment: c.env})
			for urn, l := range launchers {
				if want := urn == c.urn; want != (len(l.launched) == 1) || want && l.launched[0].Environment.GetUrn() != urn {
					t.Errorf("launcher of %s got %v", urn, l.launched)
				}
			}
			for _, err := range []error{checked, err} {
				if (err == nil) != (c.urn != "") || fault.ClassOf(err) != c.class {
					t.Fatalf("error is %v (class %v); want class %v", err, fault.ClassOf(err), c.class)
				}
				for _, h := range c.holds {
					if !strings.Contains(err.Error(), h) {
						t.Errorf("error is %q; want it to hold %q", err, h)
					}
				}
			}
		})
	}
}

func TestSetAsksTheLauncher(t *testing.T) {
	refusal := fault.New(fault.Invalid, "no command")
	s := NewSet(map[string]Launcher{URNProcess: &fake{check: refusal}, URNExternal: &fake{}})
	proc, ext := &pipepb.Environment{Urn: URNProcess}, &pipepb.Environment{Urn: URNExternal}
	if err := s.Check(proc); !errors.Is(err, refusal) {
		t.Errorf("Check: %v; want %v", err, refusal)
	}
	if err := s.Check(ext); err != nil {
		t.Errorf("Check of another's environment: %v", err)
	}
}

func TestRegistryStopsAll(t *testing.T) {
	f := &fake{}
	r := NewRegistry(f)
	var workers []Worker
	for _, id := range []string{"b", "a", "c"} {
		w, err := r.Launch(t.Context(), Request{WorkerID: id})
		if err != nil {
			t.Fatal(err)
		}
		workers = append(workers, w)
	}
	if err := workers[0].Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "c"}, r.Live()); diff != "" {
		t.Errorf("Live (-want +got):\n%s", diff)
	}
	if err := r.StopAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.stopped != 3 || len(r.Live()) != 0 {
		t.Errorf("%d workers have been stopped and %v live; want 3 and none", f.stopped, r.Live())
	}
	if _, err := r.Launch(t.Context(), Request{WorkerID: "d"}); fault.ClassOf(err) != fault.Retryable || len(f.launched) != 3 {
		t.Errorf("Launch after StopAll: %v and %d launched; want class %v and 3", err, len(f.launched), fault.Retryable)
	}
}

func TestRegistryStopsWorkersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(&fake{stop: func(context.Context) error {
			<-time.After(5 * time.Second)
			return nil
		}})
		for range 20 {
			if _, err := r.Launch(t.Context(), Request{}); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		if err := r.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("StopAll took %v; want 5s, that of one", took)
		}
	})
}

func TestRegistryEndsLaunchesUnderWay(t *testing.T) {
	for name, launch := range map[string]func(context.Context, Request) error{
		"that obey":                func(ctx context.Context, _ Request) error { <-ctx.Done(); return ctx.Err() },
		"that succeed nonetheless": func(ctx context.Context, _ Request) error { <-ctx.Done(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{launch: launch}
				r := NewRegistry(f)
				go r.Launch(t.Context(), Request{WorkerID: "w"})
				synctest.Wait()
				if err := r.StopAll(t.Context()); err != nil {
					t.Fatal(err)
				}
				if f.stopped != len(f.launched) || len(r.Live()) != 0 {
					t.Errorf("%d launched, %d stopped, %v live", len(f.launched), f.stopped, r.Live())
				}
			})
		})
	}
}

func TestRegistryKeepsWhatDoesNotStop(t *testing.T) {
	stuck := errors.New("stuck")
	f := &fake{stop: func(context.Context) error { return stuck }}
	r := NewRegistry(f)
	if _, err := r.Launch(t.Context(), Request{WorkerID: "w"}); err != nil {
		t.Fatal(err)
	}
	if err := r.StopAll(t.Context()); !errors.Is(err, stuck) {
		t.Errorf("StopAll: %v; want %v", err, stuck)
	}
	f.stop = nil
	if err := r.StopAll(t.Context()); err != nil || len(r.Live()) != 0 {
		t.Errorf("second StopAll: %v and %v live; want success", err, r.Live())
	}
}
