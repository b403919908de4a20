package jobservice_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/portable/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is how the test's client reaches the server.
const authority = "lintel.test:8099"

// rig is a service behind real gRPC, with a client.
type rig struct {
	*jobservice.Service
	executor  *executor
	artifacts *artifact.Service
	client    jobpb.JobServiceClient
	staging   jobpb.ArtifactStagingServiceClient
	server    *grpc.Server
	conn      *grpc.ClientConn
	dial      []grpc.DialOption // with which conn was made
}

func newRig(t testing.TB, cfg jobservice.Config, planner jobservice.Planner) *rig {
	t.Helper()
	return newRigWith(t, cfg, planner, t.TempDir(), &executor{runs: map[string]*run{}})
}

// newRigWith is a rig with artifacts in dir, which an earlier one may have used.
func newRigWith(t testing.TB, cfg jobservice.Config, planner jobservice.Planner, dir string, x *executor) *rig {
	t.Helper()
	artifacts, err := artifact.New(artifact.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if planner == nil {
		planner = acceptAll
	}
	r := &rig{executor: x, artifacts: artifacts}
	if r.Service, err = jobservice.New(cfg, planner, r.executor, artifacts); err != nil {
		t.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	server := grpc.NewServer(cfg.ServerOptions()...)
	r.Register(server)
	artifacts.RegisterRetrieval(server) // elsewhere it is on the Fn API's
	go server.Serve(lis)
	r.dial = []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	conn, err := grpc.NewClient("passthrough:///"+authority, r.dial...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		conn.Close()
		server.Stop()
		artifacts.Close()
	})
	r.server, r.conn = server, conn
	r.client, r.staging = jobpb.NewJobServiceClient(conn), jobpb.NewArtifactStagingServiceClient(conn)
	return r
}

func acceptAll(_ context.Context, p *pipepb.Pipeline, _ *structpb.Struct) (*plan.Plan, error) {
	return &plan.Plan{Components: p.GetComponents()}, nil
}

func (r *rig) prepare(t testing.TB) string {
	t.Helper()
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}, JobName: "Word Count"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetPreparationId()
}

func (r *rig) start(t testing.TB, id string) *run {
	t.Helper()
	if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil {
		t.Fatal(err)
	}
	return r.executor.run(id)
}

// watch reads a job's message stream to its end.
func (r *rig) watch(t testing.TB, id string) []*jobpb.JobMessagesResponse {
	t.Helper()
	stream, err := r.client.GetMessageStream(t.Context(), &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	return readAll(t, stream)
}

// readAll reads a server stream to its end.
func readAll[M any](t testing.TB, stream grpc.ServerStreamingClient[M]) []*M {
	t.Helper()
	var all []*M
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Errorf("stream: %v", err)
			return all
		}
		all = append(all, m)
	}
}

func statesOf(messages []*jobpb.JobMessagesResponse) (states []jobservice.State) {
	for _, m := range messages {
		if s := m.GetStateResponse(); s != nil {
			states = append(states, s.GetState())
		}
	}
	return states
}

func errorsOf(messages []*jobpb.JobMessagesResponse) (texts []string) {
	for _, m := range messages {
		if m.GetMessageResponse().GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
			texts = append(texts, m.GetMessageResponse().GetMessageText())
		}
	}
	return texts
}
