package jobcontrol_test

import (
	"context"
	"net"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/web/jobcontrol"
	"github.com/lintelrun/lintel/web/jobview"
)

// service knows the job j1.
type service struct{}

func (service) find(id string) error {
	if id != "j1" {
		return status.Errorf(codes.NotFound, "no job %q", id)
	}
	return nil
}

func (s service) Savepoint(_ context.Context, id, uri string) (jobservice.Savepoint, error) {
	return jobservice.Savepoint{URI: "at " + uri, Bytes: 1 << 40}, s.find(id)
}

func (s service) Stop(_ context.Context, id, uri string, drain bool) (jobservice.Savepoint, jobservice.State, error) {
	state := jobpb.JobState_CANCELLED
	if drain {
		state = jobpb.JobState_DRAINED
	}
	return jobservice.Savepoint{URI: "at " + uri, Bytes: 3}, state, s.find(id)
}

func (s service) Checkpoints(id string) ([]jobservice.Checkpoint, error) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return []jobservice.Checkpoint{{Epoch: 1, Generation: 2, Began: at, Ended: at.Add(time.Second), Bytes: 5, NewBytes: 4, Failure: "disk full"}}, s.find(id)
}

func dial(t *testing.T, options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	testkit.Leaks(t)
	lis := bufconn.Listen(1 << 16)
	server := grpc.NewServer(options...)
	jobcontrol.Register(server, service{})
	go server.Serve(lis)
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
	})
	return conn
}

func TestCalls(t *testing.T) {
	var called []string
	c := jobcontrol.NewClient(dial(t, grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		called = append(called, info.FullMethod)
		return handle(ctx, req)
	})))
	s, err := c.Savepoint(t.Context(), jobcontrol.SavepointRequest{ID: "j1", URI: "file:///s"})
	if want := (jobview.Savepoint{ID: "j1", URI: "at file:///s", Bytes: 1 << 40}); err != nil || s != want {
		t.Errorf("%+v, %v; want %+v", s, err, want)
	}
	s, err = c.Stop(t.Context(), jobcontrol.StopRequest{SavepointRequest: jobcontrol.SavepointRequest{ID: "j1"}, Drain: true})
	if want := (jobview.Savepoint{ID: "j1", State: "DRAINED", URI: "at ", Bytes: 3}); err != nil || s != want {
		t.Errorf("%+v, %v; want %+v", s, err, want)
	}
	list, err := c.Checkpoints(t.Context(), jobcontrol.CheckpointsRequest{ID: "j1"})
	want, _ := service{}.Checkpoints("j1")
	if err != nil || len(list) != 1 || list[0] != jobview.OfCheckpoints(want)[0] || list[0].State != jobview.CheckpointFailed {
		t.Errorf("%+v, %v", list, err)
	}
	if len(called) != 3 || called[0] != "/lintel.v1.JobControl/Savepoint" {
		t.Errorf("called %q", called)
	}
}

func TestErrorsKeepTheirStatus(t *testing.T) {
	conn := dial(t)
	c := jobcontrol.NewClient(conn)
	if _, err := c.Savepoint(t.Context(), jobcontrol.SavepointRequest{ID: "j2"}); status.Code(err) != codes.NotFound {
		t.Errorf("no such job: %v", err)
	}
	if err := conn.Invoke(t.Context(), "/lintel.v1.JobControl/Other", &jobpb.GetJobsRequest{}, &jobpb.GetJobsResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("no such call: %v", err)
	}
}
