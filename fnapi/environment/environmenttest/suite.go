// Package environmenttest is the conformance suite of environment.Launcher. A launcher's test
// calls RunHelper in its TestMain and Run with a Suite.
package environmenttest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

// patience is for what should take milliseconds on a machine that does much else.
const patience = 30 * time.Second

// Suite is what Run tests.
type Suite struct {
	// Launcher gives a worker a second or so between SIGTERM and SIGKILL.
	Launcher environment.Launcher
	// Environment returns one whose worker is a program that calls RunHelper, as the test's own
	// binary, with env, which holds BehaviourEnv, among its environment variables.
	Environment func(env map[string]string) *pipepb.Environment
	// SeesProcess is set if the launcher notices the end of a worker and gets its output.
	SeesProcess bool
	// MixesStreams is set if the launcher gets standard output and error apart, and so cannot tell
	// what came first of lines in both.
	MixesStreams bool
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	for name, test := range map[string]func(*testing.T, *bench){
		"StartsAndStops":             startsAndStops,
		"NeverConnects":              neverConnects,
		"DiesWithOutput":             diesWithOutput,
		"IgnoresTerm":                ignoresTerm,
		"ForksGrandchildren":         forksGrandchildren,
		"AbandonsGrandchildren":      abandonsGrandchildren,
		"StopWithoutTime":            stopWithoutTime,
		"StopsTwiceAtOnce":           stopsTwiceAtOnce,
		"LaunchWithoutTime":          launchWithoutTime,
		"RefusesUnusableEnvironment": refusesUnusableEnvironment,
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			test(t, newBench(t, s))
		})
	}
}

// connected is what a worker has told of itself when it connected.
type connected struct {
	id   string
	args []string
}

// bench is a launcher under test and the Fn API server that its workers connect to.
type bench struct {
	fnpb.UnimplementedBeamFnControlServer
	Suite
	mark      string
	endpoints environment.Endpoints
	connected chan connected

	mu    sync.Mutex
	lines []string
}

func newBench(t *testing.T, s Suite) *bench {
	b := &bench{Suite: s, mark: fmt.Sprintf("%s.%d", t.Name(), time.Now().UnixNano()), connected: make(chan connected, 8)}
	lis, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	fnpb.RegisterBeamFnControlServer(server, b)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(lis) })
	t.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
	b.endpoints = environment.Endpoints{
		Control:   lis.Addr().String(),
		Logging:   "logging:1",
		Artifact:  "artifact:2",
		Provision: "provision:3",
	}
	return b
}

// Control implements BeamFnControlServer.
func (b *bench) Control(stream fnpb.BeamFnControl_ControlServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	b.connected <- connected{strings.Join(md.Get("worker_id"), ","), md.Get(argumentsHeader)}
	<-stream.Context().Done()
	return nil
}

func (b *bench) request(id string, does Behaviour) environment.Request {
	return environment.Request{
		WorkerID:    id,
		Environment: b.Environment(map[string]string{BehaviourEnv: string(does), MarkEnv: b.mark}),
		Endpoints:   b.endpoints,
		Output: func(line string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.lines = append(b.lines, line)
		},
	}
}

func (b *bench) launch(t *testing.T, does Behaviour) environment.Worker {
	t.Helper()
	w, err := b.Launcher.Launch(t.Context(), b.request("w-1", does))
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	t.Cleanup(func() { w.Stop(context.Background()) })
	return w
}

func (b *bench) awaitConnected(t *testing.T) connected {
	t.Helper()
	select {
	case c := <-b.connected:
		return c
	case <-time.After(patience):
		t.Fatal("the worker has not connected")
		return connected{}
	}
}

// running returns the processes of this test that there are.
func (b *bench) running(t *testing.T) []proctree.Process {
	t.Helper()
	all, err := proctree.WithEnv(MarkEnv + "=" + b.mark)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// stop stops a worker and checks that it is gone with all its children.
func (b *bench) stop(t *testing.T, w environment.Worker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	b.wantGone(t, w)
}

func (b *bench) wantGone(t *testing.T, w environment.Worker) {
	t.Helper()
	select {
	case <-w.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if left := b.running(t); len(left) != 0 {
		t.Errorf("processes left after Stop: %v", left)
	}
}

func wantLiving(t *testing.T, w environment.Worker) {
	t.Helper()
	select {
	case <-w.Done():
		t.Errorf("Done is closed before Stop: %v", w.Err())
	default:
	}
	if err := w.Err(); err != nil {
		t.Errorf("Err of a living worker: %v", err)
	}
}

func startsAndStops(t *testing.T, b *bench) {
	w := b.launch(t, Connects)
	c := b.awaitConnected(t)
	if c.id != "w-1" {
		t.Errorf("worker id is %q; want w-1", c.id)
	}
	slices.Sort(c.args)
	want := []string{
		"--artifact_endpoint=" + b.endpoints.Artifact,
		"--control_endpoint=" + b.endpoints.Control,
		"--id=w-1",
		"--logging_endpoint=" + b.endpoints.Logging,
		"--provision_endpoint=" + b.endpoints.Provision,
	}
	if diff := cmp.Diff(want, c.args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	wantLiving(t, w)
	if len(b.running(t)) == 0 {
		t.Error("no process bears the mark: the checks of this suite see nothing")
	}
	b.stop(t, w)
	b.stop(t, w) // idempotent
	if err := w.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func neverConnects(t *testing.T, b *bench) {
	w := b.launch(t, NeverConnects)
	testkit.Eventually(t, patience, "a process of the worker", func() bool { return len(b.running(t)) > 0 })
	wantLiving(t, w)
	b.stop(t, w)
	if err := w.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func diesWithOutput(t *testing.T, b *bench) {
	w := b.launch(t, Dies)
	if !b.SeesProcess {
		wantLiving(t, w)
		b.stop(t, w)
		return
	}
	b.wantDeath(t, w)
	b.mu.Lock()
	defer b.mu.Unlock()
	said := strings.Join(b.lines, "\n") + "\n"
	lines, want := strings.Split(said, "\n"), strings.Split(LastWords, "\n")
	if b.MixesStreams {
		slices.Sort(lines)
		slices.Sort(want)
	}
	if !slices.Equal(lines, want) {
		t.Errorf("output is %q; want %q", said, LastWords)
	}
	err := w.Err()
	for _, want := range []string{"w-1", "exited with code 3", said} {
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Err is %q; want it to hold %q", err, want)
		}
	}
}

// wantDeath waits for the end of a worker that nobody has stopped.
func (b *bench) wantDeath(t *testing.T, w environment.Worker) {
	t.Helper()
	select {
	case <-w.Done():
	case <-time.After(patience):
		t.Fatal("Done is open though the worker has died")
	}
	b.wantGone(t, w)
	err := w.Err()
	if err == nil {
		t.Fatal("Err is nil though the worker has died")
	}
	if got := fault.ClassOf(err); got != fault.Retryable {
		t.Errorf("class of %q is %v; want %v", err, got, fault.Retryable)
	}
	b.stop(t, w)
	if got := w.Err(); got != err {
		t.Errorf("Err after a later Stop is %v; want %v as before", got, err)
	}
}

func ignoresTerm(t *testing.T, b *bench) {
	w := b.launch(t, IgnoresTerm)
	b.awaitConnected(t)
	b.stop(t, w)
}

func forksGrandchildren(t *testing.T, b *bench) {
	w := b.launch(t, Forks)
	b.awaitConnected(t)
	if got := len(b.running(t)); got < 4 {
		t.Errorf("%d processes run; want the worker and its three children", got)
	}
	b.stop(t, w)
}

func abandonsGrandchildren(t *testing.T, b *bench) {
	w := b.launch(t, Abandons)
	b.awaitConnected(t)
	if b.SeesProcess {
		b.wantDeath(t, w)
	} else {
		b.stop(t, w)
	}
}

func stopWithoutTime(t *testing.T, b *bench) {
	w := b.launch(t, Forks)
	b.awaitConnected(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	b.wantGone(t, w)
}

func stopsTwiceAtOnce(t *testing.T, b *bench) {
	w := b.launch(t, Connects)
	b.awaitConnected(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { b.stop(t, w) })
	}
	wg.Wait()
}

func launchWithoutTime(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Launcher.Launch(ctx, b.request("w-1", Connects)); err == nil {
		t.Error("Launch succeeds though its context has ended")
	}
	if left := b.running(t); len(left) != 0 {
		t.Errorf("processes left after a failed Launch: %v", left)
	}
}

func refusesUnusableEnvironment(t *testing.T, b *bench) {
	good := b.Environment(nil)
	for name, payload := range map[string][]byte{"empty": nil, "garbage": []byte("\xff\xff\xff")} {
		r := b.request("w-1", Connects)
		r.Environment = &pipepb.Environment{Urn: good.GetUrn(), Payload: payload}
		if _, err := b.Launcher.Launch(t.Context(), r); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("Launch with %s payload: %v (class %v); want class %v", name, err, fault.ClassOf(err), fault.Invalid)
		}
		c, ok := b.Launcher.(environment.Checker)
		if !ok {
			continue
		}
		if err := c.Check(r.Environment); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("Check with %s payload: %v (class %v); want class %v", name, err, fault.ClassOf(err), fault.Invalid)
		}
	}
	if c, ok := b.Launcher.(environment.Checker); ok {
		if err := c.Check(good); err != nil {
			t.Errorf("Check of a good environment: %v", err)
		}
	}
}
