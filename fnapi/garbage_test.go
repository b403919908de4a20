package fnapi_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/garbagetest"
)

// prompt is how long what garbage was sent to may take to end.
const prompt = 5 * time.Second

// as makes calls in the name of a worker.
type as struct {
	grpc.ClientConnInterface
	worker string
}

func (a as) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return a.ClientConnInterface.NewStream(fnapitest.WithWorkerID(ctx, a.worker), d, method, opts...)
}

const (
	fnMethods   = "/org.apache.beam.model.fn_execution.v1."
	stateMethod = fnMethods + "BeamFnState/State"
)

// elsewhere are the methods that have endpoints of their own.
var elsewhere = []garbagetest.Method{
	{Name: stateMethod, Input: (&fnpb.StateRequest{}).ProtoReflect().Descriptor(), Streams: true},
	{Name: fnMethods + "BeamFnControl/Control", Input: (&fnpb.InstructionResponse{}).ProtoReflect().Descriptor(), Streams: true},
	{Name: fnMethods + "BeamFnControl/GetProcessBundleDescriptor", Input: (&fnpb.GetProcessBundleDescriptorRequest{}).ProtoReflect().Descriptor()},
	{Name: fnMethods + "BeamFnData/Data", Input: (&fnpb.Elements{}).ProtoReflect().Descriptor(), Streams: true},
}

// endpoints are the server's three as one.
type endpoints struct {
	*grpc.ClientConn
	bundles, state *grpc.ClientConn
}

func (e endpoints) of(method string) *grpc.ClientConn {
	switch {
	case method == stateMethod:
		return e.state
	case slices.ContainsFunc(elsewhere, func(m garbagetest.Method) bool { return m.Name == method }):
		return e.bundles
	}
	return e.ClientConn
}

func (e endpoints) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return e.of(method).Invoke(ctx, method, args, reply, opts...)
}

func (e endpoints) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return e.of(method).NewStream(ctx, d, method, opts...)
}

// stubState has one byte under every key.
type stubState struct{}

func (stubState) Get(*fnpb.StateKey, []byte) (data, next []byte, err error) {
	return []byte{7}, nil, nil
}
func (stubState) Append(*fnpb.StateKey, []byte) error { return nil }
func (stubState) Clear(*fnpb.StateKey) error          { return nil }

// Whatever is registered gets garbage from nobody, from workers that are not expected, from
// workers with bundles in flight, and from impostors; meanwhile another worker's bundles go on.
func TestEveryMethodTakesGarbage(t *testing.T) {
	calls := 300
	if testing.Short() {
		calls = 20
	}
	s := newServer(t, fnapi.Config{})
	methods, err := garbagetest.Methods(s.Registrar().(*grpc.Server))
	if err != nil || len(methods) == 0 {
		t.Fatalf("methods %v, %v", methods, err)
	}
	methods = append(methods, elsewhere...)
	var conn endpoints
	for _, c := range []struct {
		to **grpc.ClientConn
		at string
	}{{&conn.ClientConn, s.Endpoint()}, {&conn.bundles, s.BundleEndpoint()}, {&conn.state, s.StateEndpoint()}} {
		if *c.to, err = fnapitest.Dial(c.at); err != nil {
			t.Fatal(err)
		}
		defer (*c.to).Close()
	}
	healthy := runHealthy(t, s)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := &garbagetest.Generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	known := []string{"plain", "timers", "source", "sink", "pardo", "f", "worker", "i1"}
	run := func(name string, methods []garbagetest.Method, send func(*testing.T, garbagetest.Method)) {
		t.Run(name, func(t *testing.T) {
			for _, m := range methods {
				before := healthy.Load()
				for range calls {
					if send(t, m); t.Failed() {
						return
					}
				}
				for end := time.Now().Add(prompt); healthy.Load() == before; {
					if time.Now().After(end) {
						t.Fatalf("after garbage to %s the healthy worker's bundles stand still", m.Name)
					}
					<-time.After(time.Millisecond)
				}
			}
		})
	}
	plainly := func(c grpc.ClientConnInterface) func(*testing.T, garbagetest.Method) {
		return func(t *testing.T, m garbagetest.Method) {
			g.Strings = known
			garbagetest.Run(t, c, []garbagetest.Method{m}, g, 1)
		}
	}
	run("from nobody", methods, plainly(conn))
	run("from a stranger", methods, plainly(as{conn, "stranger"}))
	run("from a worker with bundles", methods, func(t *testing.T, m garbagetest.Method) {
		v := newVictim(t, s)
		g.Strings = slices.Concat(known, v.bundles)
		garbagetest.Run(t, as{conn, v.ID()}, []garbagetest.Method{m}, g, 1)
		v.end(t)
	})
	// A worker that breaks the protocol on its state stream is lost, and who has its id is the worker.
	harmless := slices.DeleteFunc(slices.Clone(methods), func(m garbagetest.Method) bool { return m.Name == stateMethod })
	run("from an impostor", harmless, plainly(as{conn, "worker"}))
}

// runHealthy runs bundles of a worker of good will until the end of the test, and counts them.
func runHealthy(t *testing.T, s *fnapi.Server) *atomic.Int64 {
	h, _ := newHarness(t, s, fnapi.Worker{}, fnapitest.Script{Process: echo})
	var bundles atomic.Int64
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := healthyBundle(h, bundles.Load()); err != nil {
				t.Errorf("bundle %d of the healthy worker: %v", bundles.Load(), err)
				return
			}
			bundles.Add(1)
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	return &bundles
}

func healthyBundle(h *fnapi.Harness, n int64) error {
	b, err := h.NewBundle(plain)
	if err != nil {
		return err
	}
	defer b.Abort(context.Canceled)
	text := fmt.Sprint("input ", n)
	if err := b.Send([]byte(text)); err != nil {
		return err
	}
	if err := b.CloseSend(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), prompt)
	defer cancel()
	got, err := collect(ctx, b)
	if err == nil && got["sink"] != text {
		err = fmt.Errorf("output %q, want %q", got["sink"], text)
	}
	return err
}

// victim is a worker whose every call is garbage, and who has bundles in flight.
type victim struct {
	*fnapi.Harness
	bundles []string // their ids
	ended   chan struct{}
}

var victims atomic.Int64

func newVictim(t *testing.T, s *fnapi.Server) *victim {
	t.Helper()
	h, err := s.Expect(fmt.Sprint("victim", victims.Add(1)), fnapi.Worker{Log: func(*fnpb.LogEntry) {}})
	if err != nil {
		t.Fatal(err)
	}
	addDescriptors(t, s, h)
	v := &victim{Harness: h, ended: make(chan struct{}, 2)}
	for _, spec := range []fnapi.BundleSpec{plain, timers} {
		spec.State = stubState{}
		b := newBundle(t, h, spec)
		v.bundles = append(v.bundles, b.ID())
		feed(t, b, "input")
		go func() {
			// How it ends is up to the garbage; that it ends is not.
			_, _ = collect(context.Background(), b)
			b.Abort(context.Canceled)
			v.ended <- struct{}{}
		}()
	}
	return v
}

// end closes the worker and waits for its bundles.
func (v *victim) end(t *testing.T) {
	t.Helper()
	v.Close()
	for range v.bundles {
		select {
		case <-v.ended:
		case <-time.After(prompt):
			t.Fatal("a bundle of a closed worker hangs")
		}
	}
}
