package worker

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/windowing"
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
	err := e.call(ctx, m.Call, 1, windowing.CallOf, func(dst []byte, call int) []byte {
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
func (e *execution) mergeWindows(ctx context.Context, call *plan.Call, keys [][][]byte) ([][]windowing.Merged, error) {
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
	err := e.call(ctx, call, len(ask), windowing.CallOf, func(dst []byte, i int) []byte {
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
func (e *execution) mergeKeys(ctx context.Context, call *plan.Call) func([][][]byte) ([][]windowing.Merged, error) {
	if call == nil {
		return nil
	}
	return func(keys [][][]byte) ([][]windowing.Merged, error) { return e.mergeWindows(ctx, call, keys) }
}

// windowsKey is the same for the same windows in any order.
func windowsKey(call *plan.Call, windows [][]byte) string {
	sorted := slices.SortedFunc(slices.Values(windows), bytes.Compare)
	key := append([]byte(call.ID), 0)
	for _, w := range sorted {
		key = append(key, w...) // windows are encoded so that their ends can be seen
	}
	return string(key)
}
