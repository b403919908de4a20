package external

import (
	"context"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/environmenttest"
	"github.com/lintelrun/lintel/fnapi/environment/process"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
)

func TestMain(m *testing.M) {
	process.RunGuard()
	environmenttest.RunHelper()
	os.Exit(m.Run())
}

// pool is a worker pool: it answers by its functions and notes what it was asked.
type pool struct {
	fnpb.UnimplementedBeamFnExternalWorkerPoolServer
	start func(context.Context, *fnpb.StartWorkerRequest) error
	stop  func(context.Context, *fnpb.StopWorkerRequest) error

	mu      sync.Mutex
	started []*fnpb.StartWorkerRequest
	stopped []string
}

func (p *pool) StartWorker(ctx context.Context, r *fnpb.StartWorkerRequest) (*fnpb.StartWorkerResponse, error) {
	p.mu.Lock()
	p.started = append(p.started, r)
	p.mu.Unlock()
	reply := &fnpb.StartWorkerResponse{}
	if p.start != nil {
		if err := p.start(ctx, r); err != nil {
			reply.Error = err.Error()
		}
	}
	return reply, nil
}

func (p *pool) StopWorker(ctx context.Context, r *fnpb.StopWorkerRequest) (*fnpb.StopWorkerResponse, error) {
	p.mu.Lock()
	p.stopped = append(p.stopped, r.GetWorkerId())
	p.mu.Unlock()
	reply := &fnpb.StopWorkerResponse{}
	if p.stop != nil {
		if err := p.stop(ctx, r); err != nil {
			reply.Error = err.Error()
		}
	}
	return reply, nil
}

// serve returns the pool's address and a function that ends it.
func (p *pool) serve(t *testing.T) (addr string, end func()) {
	t.Helper()
	lis, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	fnpb.RegisterBeamFnExternalWorkerPoolServer(server, p)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(lis) })
	end = func() {
		server.Stop()
		wg.Wait()
	}
	t.Cleanup(end)
	return lis.Addr().String(), end
}

func newLauncher(t *testing.T, c Config) *Launcher {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func environmentAt(addr string, params map[string]string) *pipepb.Environment {
	payload, err := proto.Marshal(&pipepb.ExternalPayload{
		Endpoint: &pipepb.ApiServiceDescriptor{Url: addr},
		Params:   params,
	})
	if err != nil {
		panic(err)
	}
	return &pipepb.Environment{Urn: environment.URNExternal, Payload: payload}
}

// processPool runs workers as processes of this test binary, with the params as their variables.
func processPool(t *testing.T) *pool {
	launcher, err := process.New(process.Config{Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var workers sync.Map
	return &pool{
		start: func(ctx context.Context, r *fnpb.StartWorkerRequest) error {
			payload, err := proto.Marshal(&pipepb.ProcessPayload{Command: exe, Env: r.GetParams()})
			if err != nil {
				return err
			}
			w, err := launcher.Launch(ctx, environment.Request{
				WorkerID:    r.GetWorkerId(),
				Environment: &pipepb.Environment{Urn: environment.URNProcess, Payload: payload},
				Endpoints: environment.Endpoints{
					Control:   r.GetControlEndpoint().GetUrl(),
					Logging:   r.GetLoggingEndpoint().GetUrl(),
					Artifact:  r.GetArtifactEndpoint().GetUrl(),
					Provision: r.GetProvisionEndpoint().GetUrl(),
				},
			})
			if err != nil {
				return err
			}
			workers.Store(r.GetWorkerId(), w)
			return nil
		},
		stop: func(ctx context.Context, r *fnpb.StopWorkerRequest) error {
			w, ok := workers.LoadAndDelete(r.GetWorkerId())
			if !ok {
				return nil
			}
			return w.(environment.Worker).Stop(ctx)
		},
	}
}

func TestConformance(t *testing.T) {
	addr, _ := processPool(t).serve(t)
	environmenttest.Run(t, environmenttest.Suite{
		// Longer than the pool gives a worker that ignores SIGTERM.
		Launcher:    newLauncher(t, Config{StopTimeout: 20 * time.Second}),
		Environment: func(env map[string]string) *pipepb.Environment { return environmentAt(addr, env) },
	})
}

func TestStartWorkerGetsAllThatTheProtocolHas(t *testing.T) {
	testkit.Leaks(t)
	p := &pool{}
	addr, _ := p.serve(t)
	params := map[string]string{"from": "payload", "both": "payload"}
	w, err := newLauncher(t, Config{}).Launch(t.Context(), environment.Request{
		WorkerID:    "w-9",
		Environment: environmentAt(addr, maps.Clone(params)),
		Endpoints:   environment.Endpoints{Control: "c:1", Logging: "l:2", Artifact: "a:3", Provision: "p:4", Status: "s:5"},
		Params:      map[string]string{"both": "request"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []*fnpb.StartWorkerRequest{{
		WorkerId:          "w-9",
		ControlEndpoint:   descriptor("c:1"),
		LoggingEndpoint:   descriptor("l:2"),
		ArtifactEndpoint:  descriptor("a:3"),
		ProvisionEndpoint: descriptor("p:4"),
		Params:            map[string]string{"from": "payload", "both": "request"},
	}}
	if diff := cmp.Diff(want, p.started, protocmp.Transform()); diff != "" {
		t.Errorf("StartWorker requests (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := w.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"w-9"}, p.stopped); diff != "" {
		t.Errorf("StopWorker requests (-want +got):\n%s", diff)
	}
}

func TestPoolRefuses(t *testing.T) {
	testkit.Leaks(t)
	p := &pool{start: func(context.Context, *fnpb.StartWorkerRequest) error { return os.ErrExist }}
	addr, _ := p.serve(t)
	_, err := newLauncher(t, Config{}).Launch(t.Context(), environment.Request{WorkerID: "w-1", Environment: environmentAt(addr, nil)})
	wantErr(t, err, fault.Retryable, addr, "w-1", os.ErrExist.Error())
}

func TestPoolThatNeverAnswers(t *testing.T) {
	testkit.Leaks(t)
	release := make(chan struct{})
	defer close(release)
	p := &pool{start: func(context.Context, *fnpb.StartWorkerRequest) error {
		<-release
		return nil
	}}
	addr, _ := p.serve(t)
	_, err := newLauncher(t, Config{StartTimeout: 50 * time.Millisecond}).Launch(t.Context(),
		environment.Request{WorkerID: "w-1", Environment: environmentAt(addr, nil)})
	wantErr(t, err, fault.Retryable, addr, "w-1", "within 50ms")
	// The worker may have come up after all.
	if diff := cmp.Diff([]string{"w-1"}, p.stopped); diff != "" {
		t.Errorf("StopWorker requests (-want +got):\n%s", diff)
	}
}

func TestNobodyAtTheEndpoint(t *testing.T) {
	testkit.Leaks(t)
	lis, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	lis.Close()
	_, err = newLauncher(t, Config{StartTimeout: 50 * time.Millisecond}).Launch(t.Context(),
		environment.Request{WorkerID: "w-1", Environment: environmentAt(addr, nil)})
	wantErr(t, err, fault.Retryable, addr, "w-1", "connection refused")
}

func TestStopOfAWorkerWhosePoolIsGone(t *testing.T) {
	testkit.Leaks(t)
	addr, end := (&pool{}).serve(t)
	w, err := newLauncher(t, Config{}).Launch(t.Context(), environment.Request{WorkerID: "w-1", Environment: environmentAt(addr, nil)})
	if err != nil {
		t.Fatal(err)
	}
	end()
	if err := w.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	<-w.Done()
}

func TestStopOfAPoolThatNeverAnswers(t *testing.T) {
	testkit.Leaks(t)
	release := make(chan struct{})
	defer close(release)
	p := &pool{stop: func(context.Context, *fnpb.StopWorkerRequest) error {
		<-release
		return nil
	}}
	addr, _ := p.serve(t)
	w, err := newLauncher(t, Config{StopTimeout: 50 * time.Millisecond}).Launch(t.Context(),
		environment.Request{WorkerID: "w-1", Environment: environmentAt(addr, nil)})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	<-w.Done()
}

func TestCheckRefusesAuthentication(t *testing.T) {
	payload, err := proto.Marshal(&pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{
		Url: "pool:1", Authentication: &pipepb.AuthenticationSpec{Urn: "beam:auth:oauth2:v1"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	err = newLauncher(t, Config{}).Check(&pipepb.Environment{Urn: environment.URNExternal, Payload: payload})
	wantErr(t, err, fault.Unsupported, "pool:1", "beam:auth:oauth2:v1")
}

func TestConfigValidate(t *testing.T) {
	for _, c := range []Config{{StartTimeout: -1}, {StopTimeout: -1}} {
		if _, err := New(c); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("New(%+v): %v; want class %v", c, err, fault.Invalid)
		}
	}
}

func wantErr(t *testing.T, err error, class fault.Class, holds ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if got := fault.ClassOf(err); got != class {
		t.Errorf("class of %q is %v; want %v", err, got, class)
	}
	for _, h := range holds {
		if !strings.Contains(err.Error(), h) {
			t.Errorf("error is %q; want it to hold %q", err, h)
		}
	}
}
