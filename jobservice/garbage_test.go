package jobservice_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/garbagetest"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// newGarbageRig is a server with everything that clients and harnesses call of
// us, the real planner included, and a job that has ended.
func newGarbageRig(t testing.TB) (*rig, []garbagetest.Method, *garbagetest.Generator) {
	t.Helper()
	cfg := jobservice.Config{MaxJobs: 100, Records: openRecords(t, t.TempDir())}
	r := newRig(t, cfg, func(ctx context.Context, p *pipepb.Pipeline, _ *structpb.Struct) (*plan.Plan, error) {
		return portable.Compile(ctx, p, portable.Options{})
	})
	r.executor.auto = true
	methods, err := garbagetest.Methods(r.server)
	if err != nil {
		t.Fatal(err)
	}
	id := r.prepare(t)
	r.start(t, id).sink.Message(slog.LevelInfo, "a message")
	r.watch(t, id)
	token, err := r.artifacts.Open(map[string]*pipepb.Environment{"e": {Dependencies: []*pipepb.ArtifactInformation{{TypeUrn: urns.ArtifactFile}}}})
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := &garbagetest.Generator{Rand: rand.New(rand.NewPCG(seed, 0)), Strings: []string{
		id, token, "t", "c", "e", "w", "p", urns.ArtifactFile, urns.ArtifactEmbedded, urns.ArtifactURL, urns.ArtifactRoleStagingTo,
		"beam:transform:impulse:v1", "beam:transform:pardo:v1", "beam:transform:group_by_key:v1", "beam:transform:flatten:v1",
		"beam:coder:bytes:v1", "beam:coder:kv:v1", "beam:window_fn:fixed_windows:v1", "beam:env:external:v1",
	}}
	for _, m := range []proto.Message{
		&pipepb.ArtifactFilePayload{Path: "../x", Sha256: strings.Repeat("ab", 32)},
		&pipepb.ArtifactStagingToRolePayload{StagedName: "../x"},
		&pipepb.ArtifactStagingToRolePayload{StagedName: "x"},
		&pipepb.EmbeddedFilePayload{Data: []byte("data")},
		&pipepb.ParDoPayload{DoFn: &pipepb.FunctionSpec{Urn: "x"}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		g.Payloads = append(g.Payloads, b)
	}
	return r, methods, g
}

// TestEveryMethodTakesGarbage needs no list of methods: it has what is registered.
func TestEveryMethodTakesGarbage(t *testing.T) {
	calls := 300
	if testing.Short() {
		calls = 60
	}
	r, methods, g := newGarbageRig(t)
	if len(methods) < 14 {
		t.Fatalf("methods %v: that isn't all", methods)
	}
	garbagetest.Run(t, r.conn, methods, g, calls)
	// It is none the worse for it.
	r.executor.auto = false
	r.cycle(t)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 256<<20 {
		t.Errorf("%d MiB are held", m.HeapAlloc>>20)
	}
}

// FuzzCalls sends what the fuzzer finds to any of the methods.
func FuzzCalls(f *testing.F) {
	r, methods, g := newGarbageRig(f)
	for i, m := range methods {
		for range 5 {
			message, err := g.Encoded(m.Input)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), message)
		}
	}
	f.Fuzz(func(t *testing.T, method byte, message []byte) {
		garbagetest.CheckCall(t, r.conn, methods[int(method)%len(methods)], message)
	})
}

// TestDeepMessagesAreRefused nests what can be nested far beyond what anybody
// means; protobuf itself refuses more than 10,000 levels, two of which a list takes.
func TestDeepMessagesAreRefused(t *testing.T) {
	r, methods, _ := newGarbageRig(t)
	for depth, code := range map[int]codes.Code{90: codes.OK, 110: codes.InvalidArgument, 4990: codes.InvalidArgument, 9000: codes.Internal} {
		deep := &structpb.Value{}
		for range depth {
			deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
		}
		b, err := proto.Marshal(&jobpb.PrepareJobRequest{
			JobName: "deep", Pipeline: &pipepb.Pipeline{}, PipelineOptions: &structpb.Struct{Fields: map[string]*structpb.Value{"deep": deep}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range methods {
			garbagetest.CheckCall(t, r.conn, m, b)
		}
		if err := garbagetest.Call(t.Context(), r.conn, "/org.apache.beam.model.job_management.v1.JobService/Prepare", b); status.Code(err) != code {
			t.Errorf("Prepare with options nested %d deep: %v, want %v", depth, err, code)
		}
		if _, err := r.client.GetJobs(t.Context(), &jobpb.GetJobsRequest{}); err != nil {
			t.Errorf("GetJobs: %v", err)
		}
	}
}
