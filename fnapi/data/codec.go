package data

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	protobuf "google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// Codec is the codec of the Fn API server's gRPC: protobuf, of which RecvProto learns what is wrong with it.
type Codec struct{ encoding.CodecV2 }

// NewCodec returns a codec for grpc.ForceServerCodecV2.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(proto.Name)} }

// checked receives a protobuf message and keeps the error of decoding it,
// which gRPC would turn into a status like any failure of the connection.
type checked struct {
	message protobuf.Message
	err     error
}

// Unmarshal is that of encoding.CodecV2.
func (c Codec) Unmarshal(b mem.BufferSlice, v any) error {
	if m, ok := v.(*checked); ok {
		m.err = c.CodecV2.Unmarshal(b, m.message)
		return nil
	}
	return c.CodecV2.Unmarshal(b, v)
}

// RecvProto receives the next message of a stream of a server with this codec
// into m. Bytes that are no such message give an error of class Invalid;
// the other errors are those of RecvMsg.
func RecvProto(stream grpc.ServerStream, m protobuf.Message) error {
	in := checked{message: m}
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	if in.err != nil {
		return fault.New(fault.Invalid, "malformed %s: %w", m.ProtoReflect().Descriptor().FullName(), in.err)
	}
	return nil
}
