package grouping

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/coders"
)

// layout is that of windowed KV<varint, bytes>.
func layout(t testing.TB, intervals bool) *coders.Windowed {
	t.Helper()
	window := "beam:coder:global_window:v1"
	if intervals {
		window = "beam:coder:interval_window:v1"
	}
	coder := func(urn string, components ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
	}
	w, err := coders.CompileWindowed("windowed", map[string]*pipepb.Coder{
		"windowed": coder("beam:coder:windowed_value:v1", "kv", "window"),
		"kv":       coder("beam:coder:kv:v1", "key", "value"),
		"key":      coder("beam:coder:varint:v1"),
		"value":    coder("beam:coder:bytes:v1"),
		"window":   coder(window),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// encodeInterval is beam:coder:interval_window:v1: the end, then the length.
func encodeInterval(start, end int64) []byte {
	return coders.AppendVarint(coders.AppendTimestamp(nil, end), end-start)
}
