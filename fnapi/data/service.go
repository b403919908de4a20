package data

import "google.golang.org/grpc"

// Handler serves the data streams of harnesses.
type Handler interface {
	// Data serves one stream until it returns.
	Data(*Stream) error
}

// Register adds the service BeamFnData to a server whose codec is NewCodec's.
func Register(s grpc.ServiceRegistrar, h Handler) {
	register(s, "BeamFnData", "Data", h.Data)
}

// RegisterState adds the service BeamFnState to a server whose codec is NewCodec's: serve serves
// one stream until it returns. What it receives is for a StateReader.
func RegisterState(s grpc.ServiceRegistrar, serve func(*Stream) error) {
	register(s, "BeamFnState", "State", serve)
}

func register(s grpc.ServiceRegistrar, service, method string, serve func(*Stream) error) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "org.apache.beam.model.fn_execution.v1." + service,
		Streams: []grpc.StreamDesc{{
			StreamName:    method,
			Handler:       func(_ any, stream grpc.ServerStream) error { return serve(&Stream{stream}) },
			ServerStreams: true,
			ClientStreams: true,
		}},
		Metadata: "beam_fn_api.proto",
	}, nil)
}

// Stream is the server's end of one stream. One goroutine may send while another receives.
type Stream struct{ grpc.ServerStream }

// Send queues a message for writing and waits while gRPC's flow control asks for it.
func (s *Stream) Send(m Message) error { return s.SendMsg(&m) }

// Recv returns the next message, still encoded, for Parts to read. The bytes belong to the caller.
func (s *Stream) Recv() ([]byte, error) {
	var in received
	if err := s.RecvMsg(&in); err != nil {
		return nil, err
	}
	return in.bytes, nil
}
