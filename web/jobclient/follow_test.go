package jobclient_test

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// server has the log of one job, and hangs after the last entry unless that is its end.
type server struct {
	jobpb.UnimplementedJobServiceServer
	log []*jobpb.JobMessagesResponse
}

func (s *server) GetMessageStream(r *jobpb.JobMessagesRequest, stream jobpb.JobService_GetMessageStreamServer) error {
	if r.GetJobId() != "j1" {
		return status.Errorf(codes.NotFound, "no job %q", r.GetJobId())
	}
	for _, e := range s.log {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	if last := s.log[len(s.log)-1].GetStateResponse(); last.GetState() == jobpb.JobState_DONE {
		return nil
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// serve serves a log at an address until stop is called.
func serve(t *testing.T, address string, log ...*jobpb.JobMessagesResponse) (at string, stop func()) {
	t.Helper()
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	jobpb.RegisterJobServiceServer(g, &server{log: log})
	ended := make(chan error)
	go func() { ended <- g.Serve(lis) }()
	return lis.Addr().String(), func() {
		g.Stop()
		<-ended
	}
}

func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }

func message(id, second int, text string) *jobpb.JobMessagesResponse {
	return &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_MessageResponse{MessageResponse: &jobpb.JobMessage{
		MessageId: fmt.Sprint(id), Time: at(second).Format(time.RFC3339Nano), MessageText: text,
	}}}
}

func state(second int, s jobpb.JobState_Enum) *jobpb.JobMessagesResponse {
	return &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_StateResponse{
		StateResponse: &jobpb.JobStateEvent{State: s, Timestamp: timestamppb.New(at(second))}}}
}

// A log is read once, though the server is killed before it has recorded all that it had said.
func TestLogsAreFollowedOverRestarts(t *testing.T) {
	testkit.Leaks(t)
	begin := []*jobpb.JobMessagesResponse{
		state(1, jobpb.JobState_STARTING), state(2, jobpb.JobState_RUNNING), message(3, 3, "a"), message(4, 3, "b"),
	}
	address, stop := serve(t, "127.0.0.1:0", append(slices.Clone(begin), message(5, 4, "not recorded"))...)
	c, err := jobclient.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	read, gone, ended := make(chan string, 100), make(chan error, 100), make(chan error, 1)
	go func() {
		ended <- c.FollowLogs(t.Context(), "j1", func(err error) { gone <- err }, func(e jobview.LogEntry) error {
			read <- e.State + e.Message
			return nil
		})
	}()
	want := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			if got := <-read; got != text {
				t.Fatalf("read %q, want %q", got, text)
			}
		}
	}
	want("STARTING", "RUNNING", "a", "b", "not recorded")
	stop()
	<-gone
	again := append(slices.Clone(begin), message(5, 6, "goes on"))
	_, stop = serve(t, address, again...)
	want("goes on")
	stop()
	<-gone
	_, stop = serve(t, address, append(again, message(6, 7, "goes on"), state(8, jobpb.JobState_DONE))...)
	defer stop()
	want("goes on", "DONE")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(gone) > 0 || len(read) > 0 {
		t.Errorf("told %d times more that the server is gone; %d entries more", len(gone), len(read))
	}
}

func TestLogsOfServersThatAreNotThere(t *testing.T) {
	testkit.Leaks(t)
	address, stop := serve(t, "127.0.0.1:0", state(1, jobpb.JobState_DONE))
	c, err := jobclient.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lost := func(err error) { t.Errorf("lost: %v", err) }
	none := func(jobview.LogEntry) error { return nil }
	if err := c.FollowLogs(t.Context(), "j2", lost, none); err == nil {
		t.Error("there is a log of no job")
	}
	stop()
	if err := c.FollowLogs(t.Context(), "j1", lost, none); err == nil {
		t.Error("there is a log of no server")
	}
}
