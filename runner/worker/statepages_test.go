package worker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
)

// entries is the StateKey of a multimap's entries, which Beam's Go protos lack.
func (c *call) entries(state string) *fnpb.StateKey {
	var m []byte
	for i, field := range [][]byte{[]byte(c.transform), []byte(state), c.run.window, c.run.key} {
		m = protowire.AppendBytes(protowire.AppendTag(m, protowire.Number(i+1), protowire.BytesType), field)
	}
	key := &fnpb.StateKey{}
	key.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, entriesField, protowire.BytesType), m))
	return key
}

// State of several pages is read to its end as it was at the first, whatever is done to it
// meanwhile, and a page is whole elements. A token may be used twice.
func TestStateInPages(t *testing.T) {
	const n = 40
	big := bytes.Repeat([]byte{'x'}, 100_000)
	element := string(bytesOf(string(big)))
	s := func(c *call) error {
		b := c.bundle
		const first, last = -1 << 63, 1<<63 - 1
		var bag, list, values, entries []byte
		for i := range n {
			name := fmt.Sprintf("%02d%s", i, big)
			bag = append(bag, element...)
			values = append(values, element...)
			list = append(list, entry(int64(i/20), string(big))...)
			entries = append(append(append(entries, bytesOf(name)...), 0, 0, 0, 2), kvOf("a", "b")...)
			if err := b.StateAppend(c.multimap("dropped", name), kvOf("a", "b")); err != nil {
				return err
			}
		}
		if err := errors.Join(
			b.StateAppend(c.bag("bag"), bag), b.StateAppend(c.multimap("map", "k"), values),
			b.StateAppend(c.orderedList("list", 0, 0), list),
		); err != nil {
			return err
		}
		for _, x := range []struct {
			key   *fnpb.StateKey
			clear *fnpb.StateKey
			add   *fnpb.StateKey
			data  []byte
			want  []byte
			whole int // bytes of a page must be a multiple
		}{
			{c.bag("bag"), c.bag("bag"), c.bag("bag"), []byte(element), bag, len(element)},
			{c.multimap("map", "k"), c.multimapKeys("map"), c.multimap("map", "k"), []byte(element), values, len(element)},
			{c.orderedList("list", first, last), c.orderedList("list", first, last), c.orderedList("list", 0, 0), []byte(entry(5, "")), list, len(list) / n},
			{c.entries("dropped"), nil, c.multimap("dropped", "00"), bytesOf("new"), entries, len(entries) / n},
			{c.multimapKeys("dropped"), c.entries("dropped"), c.multimap("dropped", "new"), bytesOf("new"), nil, 0},
		} {
			if err := c.readInPages(x.key, x.clear, x.add, x.data, x.want, x.whole); err != nil {
				return err
			}
		}
		return errors.Join(c.wantState("the bag at last", c.bag("bag"), element),
			c.wantState("the map's keys at last", c.multimapKeys("dropped"), string(bytesOf("new"))))
	}
	p := stateful(t, 1, 1, s)
	newRig(t, p.script).mustRun(p.plan)
}

// readInPages reads a state and changes it after the first page.
func (c *call) readInPages(key, clear, add *fnpb.StateKey, data, want []byte, whole int) error {
	all, token, err := c.bundle.StatePage(key, nil)
	if err != nil || len(token) == 0 {
		return fmt.Errorf("%v: one page of %d bytes: %w", key, len(all), err)
	}
	if clear != nil {
		err = c.bundle.StateClear(clear)
	}
	if err := errors.Join(err, c.bundle.StateAppend(add, data)); err != nil {
		return err
	}
	for len(token) > 0 {
		page, next, err := c.bundle.StatePage(key, token)
		if err != nil {
			return err
		}
		again, _, err := c.bundle.StatePage(key, token)
		if err != nil || !bytes.Equal(page, again) {
			return fmt.Errorf("a page of %d bytes has %d when read again: %w", len(page), len(again), err)
		}
		if len(page) > 2*pageBytes || whole > 0 && len(page)%whole != 0 {
			return fmt.Errorf("a page of %d bytes, in elements of %d", len(page), whole)
		}
		all, token = append(all, page...), next
	}
	if want != nil && !bytes.Equal(all, want) {
		return fmt.Errorf("%v: read %d bytes, want %d", key, len(all), len(want))
	}
	return nil
}

func TestStateRequestsThatAreNoneOfTheBundles(t *testing.T) {
	for name, s := range map[string]struct {
		do   doFn
		text string
	}{
		"another transform's": {func(c *call) error {
			key := c.bag("bag")
			key.GetBagUserState().TransformId = "write"
			_, err := c.bundle.StateGet(key)
			return err
		}, `state of transform "write"`},
		"a state that is not declared": {func(c *call) error { return c.bundle.StateClear(c.bag("bags")) }, `declares no state "bags"`},
		"a key of another task": {func(c *call) error {
			for i := range 100 { // one of them is not of this task
				key := c.bag("bag")
				key.GetBagUserState().Key = bytesOf(fmt.Sprint("other", i))
				if err := c.bundle.StateAppend(key, []byte("x")); err != nil {
					return err
				}
			}
			return nil
		}, "none of the bundle's"},
		"a token that nobody gave": {func(c *call) error {
			_, _, err := c.bundle.StatePage(c.bag("bag"), binary.AppendUvarint(nil, 7))
			return err
		}, "continuation token"},
	} {
		t.Run(name, func(t *testing.T) {
			p := stateful(t, 3, 1, s.do)
			_, err := newRig(t, p.script).run(p.plan)
			wantError(t, err, fault.UserCode, s.text, "failed 4 times")
		})
	}
}

// A harness may keep state from bundle to bundle until one fails.
func TestCacheTokensOfState(t *testing.T) {
	p := stateful(t, 900, 5, count)
	inSeveralBundles(t, p, 4)
	before := p.before
	var mu sync.Mutex
	var tokens []string
	p.before = func(b *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] == "s" {
			mu.Lock()
			defer mu.Unlock()
			for _, token := range b.CacheTokens {
				if token.GetUserState() != nil {
					tokens = append(tokens, string(token.GetToken()))
				}
			}
		}
		return before(b, s)
	}
	failed := 0
	p.after = func(_ *fnapitest.Bundle, s *plan.Stage) error {
		mu.Lock()
		defer mu.Unlock()
		if s.Transforms[0] == "s" && len(tokens) == 2 {
			failed++
			return errors.New("not today")
		}
		return nil
	}
	r := newRig(t, p.script)
	r.deployment.Parallelism, r.deployment.Harnesses = 1, 1
	r.mustRun(p.plan)
	if len(tokens) < 4 || failed != 1 || tokens[0] != tokens[1] {
		t.Fatalf("tokens %q, %d failures", tokens, failed)
	}
	if rest := slices.Compact(tokens[2:]); len(rest) != 1 || rest[0] == tokens[1] {
		t.Errorf("tokens after a failure %q, before it %q", rest, tokens[1])
	}
}

// What harnesses keep of multimaps after a change is not to be relied on.
func TestCacheTokensOfMultimaps(t *testing.T) {
	const bundles = 4
	for name, tc := range map[string]struct {
		do    doFn
		renew bool
	}{
		"read":   {func(c *call) error { _, err := c.bundle.StateGet(c.multimapKeys("map")); return err }, false},
		"add":    {func(c *call) error { return c.bundle.StateAppend(c.multimap("map", "k"), bytesOf("v")) }, true},
		"remove": {func(c *call) error { return c.bundle.StateClear(c.multimap("map", "k")) }, true},
		"clear":  {func(c *call) error { return c.bundle.StateClear(c.multimapKeys("map")) }, true},
		"a bag":  {func(c *call) error { return c.bundle.StateAppend(c.bag("bag"), bytesOf("v")) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := stateful(t, 900, 5, tc.do)
			inSeveralBundles(t, p, bundles)
			before := p.before
			var mu sync.Mutex
			tokens := map[string]bool{}
			n := 0
			p.before = func(b *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] == "s" {
					mu.Lock()
					defer mu.Unlock()
					n++
					for _, token := range b.CacheTokens {
						if token.GetUserState() != nil {
							tokens[string(token.GetToken())] = true
						}
					}
				}
				return before(b, s)
			}
			r := newRig(t, p.script)
			r.deployment.Parallelism, r.deployment.Harnesses = 1, 1
			r.mustRun(p.plan)
			want := 1
			if tc.renew {
				want = n
			}
			if n < bundles || len(tokens) != want {
				t.Errorf("%d tokens in %d bundles, want %d", len(tokens), n, want)
			}
		})
	}
}
