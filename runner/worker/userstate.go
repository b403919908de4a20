package worker

import (
	"encoding/binary"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// User state, as StateRequests (beam_fn_api.proto) address it, in the cells of a
// store: a bag is one value, its elements concatenated; a multimap has a record
// per map key; an ordered list has one per sort key, its entries concatenated.

// stateKind is what a StateKey stands for.
type stateKind int

const (
	bagOf stateKind = iota
	mapValues
	mapKeys
	mapEntries
	listEntries
)

// stateAddress is a StateKey of user state.
type stateAddress struct {
	kind             stateKind
	transform, state string
	key, window      []byte
	mapKey           []byte // of mapValues
	from, to         int64  // sort keys of listEntries
}

// parseStateKey returns false for keys that are not of user state.
func parseStateKey(key *fnpb.StateKey) (s stateAddress, ok bool) {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_BagUserState_:
		b := k.BagUserState
		return stateAddress{bagOf, b.GetTransformId(), b.GetUserStateId(), b.GetKey(), b.GetWindow(), nil, 0, 0}, true
	case *fnpb.StateKey_MultimapUserState_:
		m := k.MultimapUserState
		return stateAddress{mapValues, m.GetTransformId(), m.GetUserStateId(), m.GetKey(), m.GetWindow(), m.GetMapKey(), 0, 0}, true
	case *fnpb.StateKey_MultimapKeysUserState_:
		m := k.MultimapKeysUserState
		return stateAddress{mapKeys, m.GetTransformId(), m.GetUserStateId(), m.GetKey(), m.GetWindow(), nil, 0, 0}, true
	case *fnpb.StateKey_OrderedListUserState_:
		l := k.OrderedListUserState
		return stateAddress{listEntries, l.GetTransformId(), l.GetUserStateId(), l.GetKey(), l.GetWindow(), nil,
			l.GetRange().GetStart(), l.GetRange().GetEnd()}, true
	}
	return parseEntriesKey(key.ProtoReflect().GetUnknown())
}

// entriesField is StateKey.multimap_entries_user_state, which Beam's Go protos lack.
const entriesField = 10

func parseEntriesKey(unknown []byte) (s stateAddress, ok bool) {
	num, typ, n := protowire.ConsumeTag(unknown)
	if n < 0 || num != entriesField || typ != protowire.BytesType {
		return s, false
	}
	message, n := protowire.ConsumeBytes(unknown[n:])
	if n < 0 {
		return s, false
	}
	s.kind = mapEntries
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return s, false
		}
		message = message[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, message); n < 0 {
				return s, false
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return s, false
		}
		message = message[n:]
		switch num {
		case 1:
			s.transform = string(value)
		case 2:
			s.state = string(value)
		case 3:
			s.window = value
		case 4:
			s.key = value
		}
	}
	return s, true
}

// address finds where what a StateKey stands for is kept, if it may be asked for here.
func (a *keyedAttempt) address(key *fnpb.StateKey) (s stateAddress, c *statebackend.Cell, err error) {
	s, ok := parseStateKey(key)
	if !ok {
		return s, nil, unsupportedState(key)
	}
	k := a.keyed
	if s.transform != k.spec.Transform {
		return s, nil, fault.New(fault.Invalid, "a request for state of transform %q in a bundle in which %q keeps state", s.transform, k.spec.Transform)
	}
	if _, ok := k.spec.States[s.state]; !ok {
		return s, nil, fault.New(fault.Invalid, "transform %q declares no state %q", s.transform, s.state)
	}
	group := keygroup.Of(keygroup.Hash(s.key), keygroup.DefaultMax)
	if group < k.groups[0] || group >= k.groups[1] {
		return s, nil, fault.New(fault.Invalid, "a request for state %q of a key (%d bytes) that is none of the bundle's; "+
			"keys must be encoded as in the bundle's input", s.state, len(s.key))
	}
	a.cell = statebackend.Cell{
		Scope: statebackend.Scope{Group: uint16(group), Transform: k.spec.Name},
		Key:   s.key, Window: s.window, State: s.state,
	}
	return s, &a.cell, nil
}

// get answers a read of user state, or of the page of it that token stands for.
func (a *keyedAttempt) get(key *fnpb.StateKey, token []byte) (data, next []byte, err error) {
	s, c, err := a.address(key)
	if err != nil {
		return nil, nil, err
	}
	if len(token) > 0 {
		return a.continued(token)
	}
	if s.kind == bagOf || s.kind == mapValues { // most reads end here
		a.scratch = append(c.AppendKey(a.scratch[:0]), s.mapKey...)
		v, err := a.overlay.Get(a.scratch)
		if err != nil || len(v) <= pageBytes {
			return v, nil, err
		}
	}
	return a.read(&s, c)
}

// add answers an append to user state.
func (a *keyedAttempt) add(key *fnpb.StateKey, data []byte) error {
	s, c, err := a.address(key)
	if err != nil {
		return err
	}
	if s.kind == mapKeys || s.kind == mapEntries {
		return unsupportedState(key)
	}
	if err := a.edit.Touch(s.key, s.window); err != nil {
		return err
	}
	a.changing(s.kind)
	a.scratch = c.AppendKey(a.scratch[:0])
	if err := a.keepReadings(a.scratch); err != nil {
		return err
	}
	if s.kind == listEntries {
		return a.addSorted(c, data)
	}
	a.overlay.Append(append(a.scratch, s.mapKey...), data)
	return nil
}

// changing makes the harness forget what it keeps of user state, after this bundle, if it is a
// multimap that is changed: Java's keeps entries as they were, keys twice, and values that
// have been cleared (MultimapUserState.updateCache of Beam 2.73).
func (a *keyedAttempt) changing(kind stateKind) {
	switch kind {
	case mapValues, mapKeys, mapEntries:
		if !a.mapsChanged {
			a.mapsChanged = true
			a.keyed.token.fail()
		}
	}
}

// addSorted files entries of an ordered list, each a sort key as a varint and a
// length-prefixed value, under their sort keys.
func (a *keyedAttempt) addSorted(c *statebackend.Cell, data []byte) error {
	for len(data) > 0 {
		sortKey, end, err := listEntry(data)
		if err != nil {
			return err
		}
		if end == 0 {
			return fault.New(fault.Invalid, "an entry of ordered list %q ends within its value", c.State)
		}
		a.overlay.Append(c.AppendSortKey(nil, sortKey), data[:end])
		data = data[end:]
	}
	return nil
}

// listEntry returns the sort key of the first entry and where it ends, 0 if not in data.
func listEntry(data []byte) (sortKey int64, end int, err error) {
	sortKey, n, err := coders.Varint(data)
	if err != nil {
		return 0, 0, err
	}
	size, k := binary.Uvarint(data[n:])
	if k <= 0 || size > uint64(len(data)-n-k) {
		return 0, 0, nil
	}
	return sortKey, n + k + int(size), nil
}

// clear answers a clear of user state.
func (a *keyedAttempt) clear(key *fnpb.StateKey) error {
	s, c, err := a.address(key)
	if err != nil {
		return err
	}
	a.changing(s.kind)
	a.scratch = c.AppendKey(a.scratch[:0])
	if err := a.keepReadings(a.scratch); err != nil {
		return err
	}
	switch s.kind {
	case bagOf, mapValues:
		a.overlay.Delete(append(a.scratch, s.mapKey...))
	case listEntries:
		a.overlay.DeleteRange(c.AppendSortKey(nil, s.from), c.AppendSortKey(nil, s.to))
	default:
		a.overlay.DeleteRange(a.scratch, statebackend.PrefixEnd(a.scratch))
	}
	return nil
}
