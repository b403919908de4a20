package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/panes"
)

// combine returns how accumulators that groups are of are merged, nil where values are
// something else.
func (e *execution) combine(ctx context.Context, call *plan.Call) panes.CombineFunc {
	if call == nil {
		return nil
	}
	return func(all []panes.Accumulators) ([][]byte, error) {
		merged := make([][]byte, len(all))
		err := e.call(ctx, call, len(all), timestampOf, func(dst []byte, i int) []byte {
			return appendAccumulators(dst, i, &all[i])
		}, func(i int, answer []byte) error {
			merged[i] = bytes.Clone(answer)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("merging accumulators: %w", err)
		}
		return merged, nil
	}
}

// appendAccumulators appends a call that merges accumulators, whose number is its timestamp:
// SDKs leave that as it is, and the same key may come in several windows.
func appendAccumulators(dst []byte, call int, a *panes.Accumulators) []byte {
	dst = coders.AppendHeader(dst, int64(call), 1, a.Window, []byte{coders.PaneNoFiring})
	dst = append(dst, a.Key...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(a.Count))
	return append(dst, a.Values...)
}

func timestampOf(el *coders.Element, n int) (int, error) {
	if el.Timestamp < 0 || el.Timestamp >= int64(n) {
		return 0, fault.New(fault.Corruption, "a merged accumulator with timestamp %d, which none of %d calls has", el.Timestamp, n)
	}
	return int(el.Timestamp), nil
}
