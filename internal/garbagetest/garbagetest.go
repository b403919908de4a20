// Package garbagetest sends what no client of good will sends: random messages and
// random bytes to every method that a gRPC server has registered, so that a
// method that is added is tested without anybody thinking of it.
package garbagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Method is one method of a server.
type Method struct {
	// Name is its full name, "/package.Service/Method".
	Name  string
	Input protoreflect.MessageDescriptor
	// Streams tells that it takes several messages.
	Streams bool
}

// Methods lists what is registered with a server, by name. A service without a descriptor has that of its messages for
// metadata.
func Methods(s *grpc.Server) ([]Method, error) {
	var all []Method
	for service, info := range s.GetServiceInfo() {
		if input, ok := info.Metadata.(protoreflect.MessageDescriptor); ok {
			for _, m := range info.Methods {
				all = append(all, Method{"/" + service + "/" + m.Name, input, m.IsClientStream})
			}
			continue
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", service, err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for _, m := range info.Methods {
			method := methods.ByName(protoreflect.Name(m.Name))
			if method == nil {
				return nil, fmt.Errorf("service %s: no descriptor of method %s", service, m.Name)
			}
			all = append(all, Method{"/" + service + "/" + m.Name, method.Input(), method.IsStreamingClient()})
		}
	}
	slices.SortFunc(all, func(a, b Method) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Generator makes garbage. It isn't safe for concurrent use.
type Generator struct {
	Rand *rand.Rand
	// Strings and Payloads are mixed into messages, so that some get further than
	// the first check: ids that exist, URNs, encoded messages.
	Strings  []string
	Payloads [][]byte
}

const maxDepth = 7

// Message fills a message at random.
func (g *Generator) Message(d protoreflect.MessageDescriptor) (protoreflect.ProtoMessage, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	m := t.New()
	g.fill(m, 0)
	return m.Interface(), nil
}

func (g *Generator) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if depth >= maxDepth || g.Rand.IntN(3) == 0 {
			continue
		}
		switch {
		case f.IsMap():
			list := m.Mutable(f).Map()
			for range g.Rand.IntN(3) {
				list.Set(g.scalar(f.MapKey()).MapKey(), g.value(f.MapValue(), depth, list.NewValue))
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range g.Rand.IntN(3) {
				list.Append(g.value(f, depth, list.NewElement))
			}
		default:
			m.Set(f, g.value(f, depth, func() protoreflect.Value { return m.NewField(f) }))
		}
	}
	if g.Rand.IntN(20) == 0 {
		m.SetUnknown(protoreflect.RawFields("\xfa\x3f\x03abc")) // field 1023
	}
}

func (g *Generator) value(f protoreflect.FieldDescriptor, depth int, empty func() protoreflect.Value) protoreflect.Value {
	if f.Message() == nil {
		return g.scalar(f)
	}
	v := empty()
	g.fill(v.Message(), depth+1)
	return v
}

func (g *Generator) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := int64(g.Rand.Uint64()) >> g.Rand.IntN(64)
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(g.Rand.IntN(12) - 1))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.text())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(g.payload())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	default:
		return protoreflect.ValueOfInt64(n)
	}
}

// nasty are strings that programs trip over.
var nasty = []string{"", "x", "../../etc/passwd", "/", "a\x00b", "%s%d", "é\u202e", strings.Repeat("long", 5000), "-1", "id\nwith\nlines"}

func (g *Generator) text() string {
	if len(g.Strings) > 0 && g.Rand.IntN(3) > 0 {
		return g.Strings[g.Rand.IntN(len(g.Strings))]
	}
	return nasty[g.Rand.IntN(len(nasty))]
}

func (g *Generator) payload() []byte {
	if len(g.Payloads) > 0 && g.Rand.IntN(2) > 0 {
		return g.Payloads[g.Rand.IntN(len(g.Payloads))]
	}
	return g.Bytes()
}

// Bytes returns random bytes, up to 300, few most of the time.
func (g *Generator) Bytes() []byte {
	b := make([]byte, g.Rand.IntN(300)>>g.Rand.IntN(9))
	for i := range b {
		b[i] = byte(g.Rand.Uint32())
	}
	return b
}

// Encoded returns an encoded message of the kind, which one time in four is
// broken by a few bytes, and one time in eight is nothing but random bytes.
func (g *Generator) Encoded(d protoreflect.MessageDescriptor) ([]byte, error) {
	if g.Rand.IntN(8) == 0 {
		return g.Bytes(), nil
	}
	m, err := g.Message(d)
	if err != nil {
		return nil, err
	}
	b, err := proto.Marshal(m)
	if err == nil && len(b) > 0 && g.Rand.IntN(4) == 0 {
		for range 1 + g.Rand.IntN(4) {
			b[g.Rand.IntN(len(b))] ^= 1 << g.Rand.IntN(8)
		}
		b = b[:len(b)-g.Rand.IntN(1+min(len(b)-1, 3))]
	}
	return b, err
}

// raw passes encoded messages through gRPC as they are.
type raw struct{}

func (raw) Name() string                       { return "proto" }
func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

// Call sends encoded messages to a method of any kind, closes its side and reads
// to the end. It returns the error that the server has ended the call with.
func Call(ctx context.Context, conn grpc.ClientConnInterface, method string, messages ...[]byte) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := stream.SendMsg(m); err != nil && !errors.Is(err, io.EOF) { // the reason comes with RecvMsg
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var answer []byte
		if err := stream.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// patience is how long a call may take before it counts as hanging.
const patience = 5 * time.Second

// sensible are the codes that garbage may be answered with.
var sensible = []codes.Code{
	codes.OK, codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition, codes.ResourceExhausted, codes.Unimplemented, codes.AlreadyExists, codes.OutOfRange,
}

// CheckCall makes one call and fails the test if it hangs or is answered by a code
// that blames nobody or the server. What can't be decoded is gRPC's to refuse.
func CheckCall(t testing.TB, conn grpc.ClientConnInterface, m Method, messages ...[]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := Call(ctx, conn, m.Name, messages...)
	code := status.Code(err)
	undecoded := code == codes.Internal && strings.Contains(err.Error(), "grpc: ")
	if !undecoded && !slices.Contains(sensible, code) {
		t.Errorf("%s: %v, after messages %q", m.Name, err, messages)
	}
}

// Run sends n calls of garbage to each method.
func Run(t *testing.T, conn grpc.ClientConnInterface, methods []Method, g *Generator, n int) {
	t.Helper()
	for _, m := range methods {
		for range n {
			messages := make([][]byte, 1)
			if m.Streams {
				messages = make([][]byte, g.Rand.IntN(5))
			}
			for i := range messages {
				var err error
				if messages[i], err = g.Encoded(m.Input); err != nil {
					t.Fatal(err)
				}
			}
			CheckCall(t, conn, m, messages...)
			if t.Failed() {
				return
			}
		}
	}
}
