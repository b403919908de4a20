package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/grouping"
	"github.com/lintelrun/lintel/runner/panes"
)

// windowCache remembers what SDKs said of windows, as far as that fits: window functions
// are functions. The zero value is empty. Safe for concurrent use.
type windowCache struct {
	mu     sync.Mutex
	mapped map[string][]byte             // by call and window
	merged map[string][]windowing.Merged // by call and windows
	bytes  int                           // about what both take
}

// windowCacheBytes is what a job's windowCache may take. A full one starts anew.
const windowCacheBytes = 8 << 20

// cacheEntryBytes is about what an entry of the cache takes beside its bytes.
const cacheEntryBytes = 128

func (c *windowCache) grow(size int) {
	if c.bytes += size; c.bytes > windowCacheBytes || c.mapped == nil {
		c.mapped, c.merged, c.bytes = map[string][]byte{}, map[string][]windowing.Merged{}, size
	}
}

func (c *windowCache) mapping(key string) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.mapped[key]
	return w, ok
}

func (c *windowCache) setMapping(key string, w []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grow(len(key) + len(w) + cacheEntryBytes)
	c.mapped[key] = w
}

func (c *windowCache) merging(key string) ([]windowing.Merged, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.merged[key]
	return m, ok
}

func (c *windowCache) setMerging(key string, merged []windowing.Merged, answer int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grow(len(key) + answer + cacheEntryBytes*(1+len(merged)))
	c.merged[key] = merged
}

// mapWindow returns the window of a side input that elements in a window of the main input
// read. It may ask the SDK and wait for it. The result must not be changed.
func (e *execution) mapWindow(ctx context.Context, m plan.WindowMapping, window []byte) ([]byte, error) {
	if m.Call == nil {
		if m.Identity {
			return window, nil
		}
		end, err := m.Main.MaxTimestamp(window)
		if err != nil {
			return nil, err
		}
		w, ok := m.Windowing.WindowAt(nil, end)
		if !ok {
			return nil, fault.New(fault.Invalid, "no window of the side input's %v windows holds %d ms, the end of a window of the main input", m.Windowing.Kind, end)
		}
		return w, nil
	}
	key := m.Call.ID + "\x00" + string(window)
	if w, ok := e.windows.mapping(key); ok {
		return w, nil
	}
	var mapped []byte
	err := e.callWindows(ctx, m.Call, 1, func(dst []byte, call int) []byte {
		return windowing.AppendMapCall(dst, call, window)
	}, func(_ int, answer []byte) error {
		mapped = bytes.Clone(answer)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("mapping a window to that of a side input: %w", err)
	}
	e.windows.setMapping(key, mapped)
	return mapped, nil
}

// mergeWindows merges, for each key of several, its windows, which are all different, as the
// SDK says. It returns those that change (windowing.ParseMerged), which must not be changed.
func (e *execution) mergeWindows(ctx context.Context, call *plan.WindowCall, keys [][][]byte) ([][]windowing.Merged, error) {
	found := make([][]windowing.Merged, len(keys))
	// Keys often have the same windows: they are asked for once.
	cacheKeys := make([]string, len(keys))
	asked := map[string]int{} // by cache key
	var ask []int             // keys, one for each that is asked for
	for i, windows := range keys {
		k := windowsKey(call, windows)
		if m, ok := e.windows.merging(k); ok {
			found[i] = m
			continue
		}
		cacheKeys[i] = k
		if _, again := asked[k]; !again {
			asked[k] = len(ask)
			ask = append(ask, i)
		}
	}
	if len(ask) == 0 {
		return found, nil
	}
	answers := make([][]windowing.Merged, len(ask))
	window := call.Input.Element().Components()[1].Components()[0]
	err := e.callWindows(ctx, call, len(ask), func(dst []byte, i int) []byte {
		return windowing.AppendMergeCall(dst, i, keys[ask[i]])
	}, func(i int, answer []byte) error {
		answer = bytes.Clone(answer)
		merged, err := windowing.ParseMerged(answer, window, keys[ask[i]])
		answers[i] = merged
		if err == nil {
			e.windows.setMerging(cacheKeys[ask[i]], merged, len(answer))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("merging windows: %w", err)
	}
	for i, k := range cacheKeys {
		if k != "" {
			found[i] = answers[asked[k]]
		}
	}
	return found, nil
}

// mergeKeys returns how the windows of keys are merged that are grouped, nil unless by the SDK.
func (e *execution) mergeKeys(ctx context.Context, call *plan.WindowCall) grouping.MergeFunc {
	if call == nil {
		return nil
	}
	return func(keys [][][]byte) ([][]windowing.Merged, error) { return e.mergeWindows(ctx, call, keys) }
}

// mergeKey returns how those of one key are.
func (e *execution) mergeKey(ctx context.Context, call *plan.WindowCall) panes.MergeFunc {
	mergeKeys := e.mergeKeys(ctx, call)
	if mergeKeys == nil {
		return nil
	}
	return func(windows [][]byte) ([]windowing.Merged, error) {
		merged, err := mergeKeys([][][]byte{windows})
		if err != nil {
			return nil, err
		}
		return merged[0], nil
	}
}

// windowsKey is the same for the same windows in any order.
func windowsKey(call *plan.WindowCall, windows [][]byte) string {
	sorted := slices.SortedFunc(slices.Values(windows), bytes.Compare)
	key := append([]byte(call.ID), 0)
	for _, w := range sorted {
		key = append(key, w...) // windows are encoded so that their ends can be seen
	}
	return string(key)
}

// callWindows makes n calls, whose inputs write appends, in one bundle, and hands the answers
// to read, in any order. It is tried as often as other bundles are; read may so be
// called again for the same call.
func (e *execution) callWindows(ctx context.Context, call *plan.WindowCall, n int, write func(dst []byte, call int) []byte, read func(call int, answer []byte) error) error {
	var input [][]byte
	var chunk []byte
	for i := range n {
		if chunk = write(chunk, i); len(chunk) >= pageBytes || i == n-1 {
			input = append(input, chunk)
			chunk = nil
		}
	}
	for attempt := 1; ; attempt++ {
		err := e.tryWindows(ctx, call, n, input, read)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case attempt >= e.cfg.Attempts:
			return fault.Wrap(fault.ClassOf(err), fmt.Errorf("bundle failed %d times, last with: %w", attempt, err))
		}
		e.log.Warn("bundle of window calls failed, trying again", "call", call.ID, "attempt", attempt, "error", err)
	}
}

// tryWindows is one attempt of a bundle of calls.
func (e *execution) tryWindows(ctx context.Context, call *plan.WindowCall, n int, input [][]byte, read func(int, []byte) error) error {
	p := e.envs[call.Environment]
	h, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(h)
	fb, err := h.NewBundle(fnapi.BundleSpec{Descriptor: e.callID(call), Source: call.Source, Sinks: []string{call.Sink}})
	if err != nil {
		return h.explain(ctx, err)
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
	output, err := receiveAll(ctx, fb)
	if err != nil {
		fb.Abort(err)
	}
	if feedErr := <-fed; err == nil {
		err = feedErr
	}
	if err != nil {
		return h.explain(ctx, err)
	}
	return readAnswers(call.Output, n, output, read)
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
func readAnswers(layout *coders.Windowed, n int, output []byte, read func(int, []byte) error) error {
	answered := make([]bool, n)
	var el coders.Element
	for rest := output; len(rest) > 0; rest = rest[el.Size:] {
		if err := layout.Next(rest, &el); err != nil {
			return fault.New(fault.Corruption, "the answer at byte %d of %d: %w", len(output)-len(rest), len(output), err)
		}
		call, err := windowing.CallOf(&el, n)
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

func (e *execution) callID(c *plan.WindowCall) string { return e.d.JobID + "/" + c.ID }
