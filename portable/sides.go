package portable

import (
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// specifySide says what a SideInput stage materialises, and for one whose contents change
// by which grouping: the one that Beam's View transforms imply.
func (a *assembler) specifySide(n *node) error {
	spec := n.stage.Side
	var err error
	if spec.Input, err = a.wire.compile(n.input); err != nil || !n.live {
		return err
	}
	ws, err := a.grouping(n.input)
	if err != nil {
		return err
	}
	merge, err := a.merging(n.input, ws)
	if err != nil {
		return err
	}
	element := a.wire.element(n.input)
	keyed := func(value string) (*coders.Windowed, error) {
		key := a.wire.add("side:key", urns.CoderBytes, nil)
		return a.wire.compileAs(n.input, a.wire.windowedBy(a.wire.add("side:"+value, urns.CoderKV, nil, key, value), n.input))
	}
	spec.Group = &plan.GroupSpec{Windowing: ws, Panes: true, Bounded: a.g.Bounded(n.input), Name: n.stage.Name, Merge: merge}
	if spec.Group.Input, err = keyed(element); err != nil {
		return err
	}
	spec.Panes, err = keyed(a.wire.add("side:iterable:"+element, urns.CoderIterable, nil, element))
	return err
}
