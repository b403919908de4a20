package sideinput

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/coders"
)

// layoutOf is that of windowed KV<bytes, bytes>, or of windowed bytes.
func layoutOf(t testing.TB, keyed, intervals bool) *coders.Windowed {
	t.Helper()
	element, window := "bytes", "beam:coder:global_window:v1"
	if keyed {
		element = "kv"
	}
	if intervals {
		window = "beam:coder:interval_window:v1"
	}
	coder := func(urn string, components ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
	}
	w, err := coders.CompileWindowed("windowed", map[string]*pipepb.Coder{
		"windowed": coder("beam:coder:windowed_value:v1", element, "window"),
		"kv":       coder("beam:coder:kv:v1", "bytes", "bytes"),
		"bytes":    coder("beam:coder:bytes:v1"),
		"window":   coder(window),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// encodeInterval is beam:coder:interval_window:v1: the end, then the length.
func encodeInterval(start, end int64) string {
	return string(coders.AppendVarint(coders.AppendTimestamp(nil, end), end-start))
}

func nested(s string) string { return string(coders.AppendBytes(nil, []byte(s))) }
