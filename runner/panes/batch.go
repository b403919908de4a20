package panes

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// onlyPane is the info of all batches.
var onlyPane = coders.Pane{First: true, Last: true, Timing: coders.OnTime}

// batching returns a strategy by which values leave in batches: each that is full fires, and the
// last of a window is what is left when it expires.
func batching(ws *windowing.Strategy, size uint64) *windowing.Strategy {
	full := &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: int32(size)}}}
	batches := *ws
	batches.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: full}}}
	batches.Accumulating, batches.EmptyOnTime, batches.EmptyFinal = false, false, false
	return &batches
}
