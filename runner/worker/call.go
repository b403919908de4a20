package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
)

func (e *execution) callID(c *plan.Call) string { return e.d.JobID + "/" + c.ID }

// answerOf tells which of n calls an element answers. One that answers none is a
// fault.Corruption.
type answerOf func(el *coders.Element, n int) (call int, err error)

// call makes n calls, whose inputs write appends, in one bundle, and hands the answers
// to read, in any order; of tells which of n calls an answer is to. It is tried as often as other
// bundles are; read may so be called again for the same call.
func (e *execution) call(ctx context.Context, call *plan.Call, n int, of answerOf, write func(dst []byte, call int) []byte, read func(call int, answer []byte) error) error {
	var input [][]byte
	var chunk []byte
	for i := range n {
		if chunk = write(chunk, i); len(chunk) >= pageBytes || i == n-1 {
			input = append(input, chunk)
			chunk = nil
		}
	}
	for attempt := 1; ; attempt++ {
		output, err := e.tryCall(ctx, call, input)
		if err == nil {
			err = readAnswers(call.Output, n, output, of, read)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case attempt >= e.cfg.Attempts:
			return fault.Wrap(fault.ClassOf(err), fmt.Errorf("bundle failed %d times, last with: %w", attempt, err))
		}
		e.log.Warn("bundle of calls failed, trying again", "call", call.ID, "attempt", attempt, "error", err)
	}
}

// tryCall is one attempt of a bundle of calls. It returns the answers.
func (e *execution) tryCall(ctx context.Context, call *plan.Call, input [][]byte) (output []byte, err error) {
	p := e.envs[call.Environment]
	h, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { p.release(h, err == nil) }()
	fb, err := h.NewBundle(fnapi.BundleSpec{Descriptor: e.callID(call), Source: call.Source, Sinks: []string{call.Sink}})
	if err != nil {
		return nil, h.explain(ctx, err)
	}
	defer fb.Abort(context.Canceled)
	stop := context.AfterFunc(ctx, func() { fb.Abort(ctx.Err()) })
	defer stop()
	fed := make(chan error, 1)
	go func() {
		err := feedAll(fb, input)
		if err != nil {
			fb.Abort(err)
		}
		fed <- err
	}()
	output, err = receiveAll(ctx, fb)
	if err != nil {
		fb.Abort(err)
	}
	if feedErr := <-fed; err == nil {
		err = feedErr
	}
	if err != nil {
		return nil, h.explain(ctx, err)
	}
	return output, nil
}

func feedAll(fb *fnapi.Bundle, input [][]byte) error {
	for _, chunk := range input {
		if err := fb.Send(chunk); err != nil {
			return err
		}
	}
	return fb.CloseSend()
}

// receiveAll returns all that a bundle with one sink puts out.
func receiveAll(ctx context.Context, fb *fnapi.Bundle) ([]byte, error) {
	var all []byte
	for {
		o, err := fb.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, o.Data...)
	}
}

// readAnswers hands the answers to n calls to read. There must be one for each.
func readAnswers(layout *coders.Windowed, n int, output []byte, of answerOf, read func(int, []byte) error) error {
	answered := make([]bool, n)
	var el coders.Element
	for rest := output; len(rest) > 0; rest = rest[el.Size:] {
		if err := layout.Next(rest, &el); err != nil {
			return fault.New(fault.Corruption, "the answer at byte %d of %d: %w", len(output)-len(rest), len(output), err)
		}
		call, err := of(&el, n)
		if err != nil {
			return err
		}
		if answered[call] {
			return fault.New(fault.Corruption, "the SDK answered twice what it was asked once")
		}
		answered[call] = true
		if err := read(call, el.Value); err != nil {
			return err
		}
	}
	if i := slices.Index(answered, false); i >= 0 {
		return fault.New(fault.Corruption, "the SDK gave no answer to call %d of %d", i, n)
	}
	return nil
}
