// Package jobcontrol is the gRPC service with what Beam's Job API has no calls for: savepoints and the list of
// checkpoints. It is served at the address of the Job API, so that clients need only that one.
//
// The service is lintel.v1.JobControl. All of its calls are unary and take and return a google.protobuf.Struct,
// with the fields of the JSON of the REST API's calls of the same names; requests have the job's id too.
package jobcontrol

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/web/jobview"
)

const serviceName = "lintel.v1.JobControl"

// SavepointRequest asks for a savepoint of a job; without a URI the server chooses where.
type SavepointRequest struct {
	ID  string `json:"id"`
	URI string `json:"uri,omitempty"`
}

// StopRequest asks for the end of a job with a savepoint, drained before or not.
type StopRequest struct {
	SavepointRequest
	Drain bool `json:"drain,omitempty"`
}

// CheckpointsRequest asks for the checkpoints of a job.
type CheckpointsRequest struct {
	ID string `json:"id"`
}

// Checkpoints are those of a job that have ended, oldest first.
type Checkpoints struct {
	Checkpoints []jobview.Checkpoint `json:"checkpoints"`
}

// Service answers the calls; *jobservice.Service is one. Errors are statuses of gRPC.
type Service interface {
	Savepoint(ctx context.Context, id, uri string) (jobservice.Savepoint, error)
	Stop(ctx context.Context, id, uri string, drain bool) (jobservice.Savepoint, jobservice.State, error)
	Checkpoints(id string) ([]jobservice.Checkpoint, error)
}

// Register adds the service to a server.
func Register(reg grpc.ServiceRegistrar, s Service) {
	reg.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*Service)(nil),
		Metadata:    (&structpb.Struct{}).ProtoReflect().Descriptor(), // of all messages
		Methods: []grpc.MethodDesc{
			unary("Savepoint", func(ctx context.Context, s Service, req SavepointRequest) (jobview.Savepoint, error) {
				made, err := s.Savepoint(ctx, req.ID, req.URI)
				return jobview.Savepoint{ID: req.ID, URI: made.URI, Bytes: made.Bytes}, err
			}),
			unary("Stop", func(ctx context.Context, s Service, req StopRequest) (jobview.Savepoint, error) {
				made, state, err := s.Stop(ctx, req.ID, req.URI, req.Drain)
				return jobview.Savepoint{ID: req.ID, State: state.String(), URI: made.URI, Bytes: made.Bytes}, err
			}),
			unary("Checkpoints", func(_ context.Context, s Service, req CheckpointsRequest) (Checkpoints, error) {
				list, err := s.Checkpoints(req.ID)
				return Checkpoints{jobview.OfCheckpoints(list)}, err
			}),
		},
	}, s)
}

// unary is a call that is answered by do.
func unary[Req, Resp any](name string, do func(context.Context, Service, Req) (Resp, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := &structpb.Struct{}
		if err := decode(in); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, in any) (any, error) {
			var req Req
			if err := fromStruct(in.(*structpb.Struct), &req); err != nil {
				return nil, status.Error(codes.InvalidArgument, err.Error())
			}
			resp, err := do(ctx, srv.(Service), req)
			if err != nil {
				return nil, err
			}
			return toStruct(resp)
		}
		if interceptor == nil {
			return handle(ctx, in)
		}
		return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceName + "/" + name}, handle)
	}}
}

// Client calls the service. It is safe for concurrent use.
type Client struct{ conn grpc.ClientConnInterface }

// NewClient returns a client of the server at the other end of a connection.
func NewClient(conn grpc.ClientConnInterface) Client { return Client{conn} }

// Savepoint has one taken of a job, which goes on, and returns when it is complete.
func (c Client) Savepoint(ctx context.Context, req SavepointRequest) (out jobview.Savepoint, err error) {
	err = c.call(ctx, "Savepoint", req, &out)
	return out, err
}

// Stop ends a job with a savepoint and returns when it has ended.
func (c Client) Stop(ctx context.Context, req StopRequest) (out jobview.Savepoint, err error) {
	err = c.call(ctx, "Stop", req, &out)
	return out, err
}

// Checkpoints returns those of a job that have ended, oldest first.
func (c Client) Checkpoints(ctx context.Context, req CheckpointsRequest) ([]jobview.Checkpoint, error) {
	var out Checkpoints
	err := c.call(ctx, "Checkpoints", req, &out)
	return out.Checkpoints, err
}

func (c Client) call(ctx context.Context, name string, req, resp any) error {
	in, err := toStruct(req)
	if err != nil {
		return err
	}
	out := &structpb.Struct{}
	if err := c.conn.Invoke(ctx, "/"+serviceName+"/"+name, in, out); err != nil {
		return err
	}
	return fromStruct(out, resp)
}

func toStruct(v any) (*structpb.Struct, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	s := &structpb.Struct{}
	return s, s.UnmarshalJSON(b)
}

func fromStruct(s *structpb.Struct, v any) error {
	b, err := s.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", serviceName, err)
	}
	return nil
}
