package jobview

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// decode reads the payload of mi by its type, as metrics.proto lays it down in
// MonitoringInfoTypeUrns. It never panics, whatever the payload.
func decode(mi *pipepb.MonitoringInfo) Value {
	r := &reader{rest: mi.GetPayload()}
	v := r.value(strings.TrimSuffix(strings.TrimPrefix(mi.GetType(), "beam:metrics:"), ":v1"))
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.rest))
	}
	if r.err != nil {
		return Undecoded{Reason: fmt.Sprintf("%s: %v", mi.GetType(), r.err), Payload: mi.GetPayload()}
	}
	return v
}

// reader consumes a payload; after the first error it yields zero values.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) value(kind string) Value {
	switch kind {
	case "sum_int64":
		return Int(r.varint())
	case "sum_double":
		return r.double()
	case "distribution_int64":
		return Distribution[int64]{Count: r.varint(), Sum: r.varint(), Min: r.varint(), Max: r.varint()}
	case "distribution_double":
		return Distribution[Float]{Count: r.varint(), Sum: r.double(), Min: r.double(), Max: r.double()}
	case "latest_int64":
		t := r.millis()
		return Latest[int64]{Time: t, Value: r.varint()}
	case "latest_double":
		t := r.millis()
		return Latest[Float]{Time: t, Value: r.double()}
	case "top_n_int64", "bottom_n_int64":
		return Numbers[int64](iterable(r, r.varint))
	case "top_n_double", "bottom_n_double", "progress":
		return Numbers[Float](iterable(r, r.double))
	case "set_string":
		return Set(slices.Sorted(slices.Values(iterable(r, r.text))))
	case "bounded_trie":
		return r.trie()
	case "histogram_int64":
		return r.histogram()
	}
	r.fail(errors.New("unknown type"))
	return nil
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.fail(errors.New("payload ends early"))
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) varint() int64 {
	u, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail(errors.New("bad varint"))
		return 0
	}
	r.rest = r.rest[n:]
	return int64(u)
}

func (r *reader) double() Float {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return Float(math.Float64frombits(binary.BigEndian.Uint64(b)))
}

// millis reads a point in time that RFC 3339, and so JSON, can express.
func (r *reader) millis() time.Time {
	t := time.UnixMilli(r.varint()).UTC()
	if t.Year() < 1 || t.Year() > 9999 {
		r.fail(errors.New("time out of range"))
	}
	return t
}

func (r *reader) text() string {
	n := r.varint()
	if n < 0 || n > int64(len(r.rest)) {
		r.fail(errors.New("string ends early"))
		return ""
	}
	return string(r.take(int(n)))
}

// iterable reads Beam's iterable coder: a four-byte count, or -1 and then blocks,
// each led by a varint count, up to an empty one.
func iterable[T any](r *reader, next func() T) []T {
	vs := []T{}
	read := func(n int64) {
		for ; n > 0 && r.err == nil; n-- {
			if v := next(); r.err == nil {
				vs = append(vs, v)
			}
		}
	}
	b := r.take(4)
	if b == nil {
		return nil
	}
	if n := int32(binary.BigEndian.Uint32(b)); n != -1 {
		read(int64(n))
		return vs
	}
	for r.err == nil {
		n := r.varint()
		if n <= 0 {
			break
		}
		read(n)
	}
	return vs
}

func (r *reader) trie() Value {
	var t pipepb.BoundedTrie
	if err := proto.Unmarshal(r.take(len(r.rest)), &t); err != nil {
		r.fail(err)
		return nil
	}
	paths := Trie{}
	if t.GetRoot() == nil {
		if len(t.GetSingleton()) > 0 {
			paths = append(paths, t.GetSingleton())
		}
		return paths
	}
	var walk func(n *pipepb.BoundedTrieNode, path []string)
	walk = func(n *pipepb.BoundedTrieNode, path []string) {
		switch {
		case n.GetTruncated():
			paths = append(paths, append(slices.Clone(path), "*"))
		case len(n.GetChildren()) == 0 && len(path) > 0:
			paths = append(paths, slices.Clone(path))
		}
		for _, k := range slices.Sorted(maps.Keys(n.GetChildren())) {
			walk(n.GetChildren()[k], append(path, k))
		}
	}
	walk(t.GetRoot(), nil)
	return paths
}

func (r *reader) histogram() Value {
	var h pipepb.HistogramValue
	if err := proto.Unmarshal(r.take(len(r.rest)), &h); err != nil {
		r.fail(err)
		return nil
	}
	v := Histogram{Count: h.GetCount()}
	bound := bounds(h.GetBucketOptions())
	for i, c := range h.GetBucketCounts() {
		if c != 0 {
			v.Buckets = append(v.Buckets, Bucket{Low: Float(bound(i)), High: Float(bound(i + 1)), Count: c})
		}
	}
	return v
}

// bounds returns the lower bound of bucket i: linear buckets have one width, those
// with a base-2 exponent grow by the factor 2^(2^-scale).
func bounds(o *pipepb.HistogramValue_BucketOptions) func(i int) float64 {
	if l := o.GetLinear(); l != nil {
		return func(i int) float64 { return l.GetStart() + float64(i)*l.GetWidth() }
	}
	if e := o.GetExponential(); e != nil {
		base := math.Pow(2, math.Pow(2, -float64(e.GetScale())))
		return func(i int) float64 {
			if i == 0 {
				return 0
			}
			return math.Pow(base, float64(i))
		}
	}
	return func(i int) float64 { return float64(i) }
}
