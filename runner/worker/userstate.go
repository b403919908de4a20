package worker

import (
	"encoding/binary"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// User state, as StateRequests (beam_fn_api.proto) address it, in the cells of a
// store: a bag is one value, its elements concatenated; a multimap has a record
// per map key; an ordered list has one per sort key, its entries concatenated.

// cell is where the state of a transform, key and window is kept.
func (a *keyedAttempt) cell(state string, key, window []byte) *statebackend.Cell {
	group := keygroup.Of(keygroup.Hash(key), keygroup.DefaultMax)
	return &statebackend.Cell{
		Scope: statebackend.Scope{Group: uint16(group), Transform: a.keyed.spec.Name},
		Key:   key, Window: window, State: state,
	}
}

// get answers a read of user state. Everything is in one page.
func (a *keyedAttempt) get(key *fnpb.StateKey) ([]byte, error) {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_BagUserState_:
		b := k.BagUserState
		return a.overlay.Get(a.cell(b.GetUserStateId(), b.GetKey(), b.GetWindow()).AppendKey(nil))
	case *fnpb.StateKey_MultimapUserState_:
		m := k.MultimapUserState
		return a.overlay.Get(a.cell(m.GetUserStateId(), m.GetKey(), m.GetWindow()).AppendMapKey(nil, m.GetMapKey()))
	case *fnpb.StateKey_MultimapKeysUserState_:
		m := k.MultimapKeysUserState
		return a.mapKeys(a.cell(m.GetUserStateId(), m.GetKey(), m.GetWindow()))
	case *fnpb.StateKey_OrderedListUserState_:
		l := k.OrderedListUserState
		return a.sorted(a.cell(l.GetUserStateId(), l.GetKey(), l.GetWindow()), l.GetRange())
	}
	return nil, unsupportedState(key)
}

// mapKeys returns the keys of a multimap, concatenated as the SDK encoded them.
func (a *keyedAttempt) mapKeys(c *statebackend.Cell) ([]byte, error) {
	prefix := c.AppendKey(nil)
	var out []byte
	err := a.overlay.Scan(prefix, statebackend.PrefixEnd(prefix), func(key, _ []byte) bool {
		out = append(out, key[len(prefix):]...)
		return true
	})
	return out, err
}

// sorted returns the entries of an ordered list with sort keys in a range.
func (a *keyedAttempt) sorted(c *statebackend.Cell, r *fnpb.OrderedListRange) ([]byte, error) {
	var out []byte
	err := a.overlay.Scan(c.AppendSortKey(nil, r.GetStart()), c.AppendSortKey(nil, r.GetEnd()), func(_, value []byte) bool {
		out = append(out, value...)
		return true
	})
	return out, err
}

// add answers an append to user state.
func (a *keyedAttempt) add(key *fnpb.StateKey, data []byte) error {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_BagUserState_:
		b := k.BagUserState
		a.overlay.Append(a.cell(b.GetUserStateId(), b.GetKey(), b.GetWindow()).AppendKey(nil), data)
		return nil
	case *fnpb.StateKey_MultimapUserState_:
		m := k.MultimapUserState
		a.overlay.Append(a.cell(m.GetUserStateId(), m.GetKey(), m.GetWindow()).AppendMapKey(nil, m.GetMapKey()), data)
		return nil
	case *fnpb.StateKey_OrderedListUserState_:
		l := k.OrderedListUserState
		return a.addSorted(a.cell(l.GetUserStateId(), l.GetKey(), l.GetWindow()), data)
	}
	return unsupportedState(key)
}

// addSorted files entries of an ordered list, each a sort key as a varint and a
// length-prefixed value, under their sort keys.
func (a *keyedAttempt) addSorted(c *statebackend.Cell, data []byte) error {
	for len(data) > 0 {
		sortKey, n, err := coders.Varint(data)
		if err != nil {
			return err
		}
		size, k := binary.Uvarint(data[n:])
		if k <= 0 || size > uint64(len(data)-n-k) {
			return fault.New(fault.Invalid, "an entry of ordered list %q ends within its value", c.State)
		}
		end := n + k + int(size)
		a.overlay.Append(c.AppendSortKey(nil, sortKey), data[:end])
		data = data[end:]
	}
	return nil
}

// clear answers a clear of user state.
func (a *keyedAttempt) clear(key *fnpb.StateKey) error {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_BagUserState_:
		b := k.BagUserState
		a.overlay.Delete(a.cell(b.GetUserStateId(), b.GetKey(), b.GetWindow()).AppendKey(nil))
		return nil
	case *fnpb.StateKey_MultimapUserState_:
		m := k.MultimapUserState
		a.overlay.Delete(a.cell(m.GetUserStateId(), m.GetKey(), m.GetWindow()).AppendMapKey(nil, m.GetMapKey()))
		return nil
	case *fnpb.StateKey_MultimapKeysUserState_:
		m := k.MultimapKeysUserState
		prefix := a.cell(m.GetUserStateId(), m.GetKey(), m.GetWindow()).AppendKey(nil)
		a.overlay.DeleteRange(prefix, statebackend.PrefixEnd(prefix))
		return nil
	case *fnpb.StateKey_OrderedListUserState_:
		l := k.OrderedListUserState
		c := a.cell(l.GetUserStateId(), l.GetKey(), l.GetWindow())
		a.overlay.DeleteRange(c.AppendSortKey(nil, l.GetRange().GetStart()), c.AppendSortKey(nil, l.GetRange().GetEnd()))
		return nil
	}
	return unsupportedState(key)
}
