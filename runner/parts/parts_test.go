package parts

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/panes"
)

func drawFrame(t *rapid.T) frame.Frame {
	return frame.Frame{
		Data:         rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data"),
		Elements:     rapid.IntRange(1, 1<<31-1).Draw(t, "elements"),
		MinTimestamp: drawTime(t),
		Remote:       max(rapid.Int64().Draw(t, "remote"), 0),
		Empty:        rapid.Bool().Draw(t, "empty"),
	}
}

func drawTime(t *rapid.T) int64 {
	return rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{frame.MinTimestamp, frame.MaxTimestamp, 0})).Draw(t, "time")
}

func drawResiduals(t *rapid.T) []engine.PendingResidual {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) engine.PendingResidual {
		return engine.PendingResidual{
			Frame: drawFrame(t), OutputHold: drawTime(t), At: time.UnixMilli(rapid.Int64Range(0, 1<<45).Draw(t, "at")),
			Bounded: rapid.Bool().Draw(t, "bounded"), Truncated: rapid.Bool().Draw(t, "truncated"),
		}
	}), 0, 3).Draw(t, "residuals")
}

func drawSnapshot(t *rapid.T) *engine.Snapshot {
	s := &engine.Snapshot{Draining: rapid.Bool().Draw(t, "draining")}
	for range rapid.IntRange(0, 3).Draw(t, "bundles") {
		b := engine.PendingBundle{
			InputHold: drawTime(t), Residual: rapid.Bool().Draw(t, "residual"), Truncated: rapid.Bool().Draw(t, "truncated"),
			Rest: drawResiduals(t),
		}
		for range rapid.IntRange(1, 3).Draw(t, "frames") {
			b.Frames = append(b.Frames, engine.BundleFrame{
				Frame: drawFrame(t), OutputHold: drawTime(t), Bounded: rapid.Bool().Draw(t, "bounded"), Part: rapid.Bool().Draw(t, "part"),
			})
		}
		s.Bundles = append(s.Bundles, b)
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "inbox") {
		if rapid.Bool().Draw(t, "mark") {
			s.Marks = append(s.Marks, engine.Mark{Before: i, Watermark: drawTime(t)})
		}
		if rapid.IntRange(0, 5).Draw(t, "end") == 0 {
			break
		}
		s.Inbox = append(s.Inbox, engine.PendingFrame{Frame: drawFrame(t), Hold: drawTime(t)})
	}
	if rapid.Bool().Draw(t, "mark at the end") && (len(s.Marks) == 0 || s.Marks[len(s.Marks)-1].Before < len(s.Inbox)) {
		s.Marks = append(s.Marks, engine.Mark{Before: len(s.Inbox), Watermark: drawTime(t)})
	}
	return s
}

func drawEntries(t *rapid.T) []Entry {
	return rapid.SliceOf(rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{Channel: rapid.IntRange(0, 1<<20).Draw(t, "channel"), Data: rapid.Bool().Draw(t, "data")}
		if e.Data {
			e.Frame, e.Hold = drawFrame(t), drawTime(t)
		} else {
			e.Watermark = drawTime(t)
		}
		return e
	})).Draw(t, "entries")
}

func encodeEntries(all []Entry) []byte {
	part := AppendEntries(nil)
	for i := range all {
		part = AppendEntry(part, &all[i])
	}
	return part
}

func decodeEntries(part []byte) (all []Entry, err error) {
	for e, err := range Entries(part) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

// forms are how a part of each kind is read, and written again.
var forms = map[string]func(part []byte) (again []byte, err error){
	"inbox": func(part []byte) ([]byte, error) {
		var s engine.Snapshot
		err := DecodeInbox(part, &s)
		return AppendInbox(nil, &s), err
	},
	"residuals": func(part []byte) ([]byte, error) {
		all, err := DecodeResiduals(part)
		return AppendResiduals(nil, all), err
	},
	"entries": func(part []byte) ([]byte, error) {
		all, err := decodeEntries(part)
		return encodeEntries(all), err
	},
	"panes": func(part []byte) ([]byte, error) {
		s, err := DecodePanes(part)
		return AppendPanes(nil, s), err
	},
}

// What is written is read, and a part that was cut short or begins in another way is not.
func TestPartsAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		check := func(what string, want, got any, err error) {
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("%s (-written +read):\n%s", what, diff)
			}
		}
		s := drawSnapshot(t)
		again := &engine.Snapshot{Draining: !s.Draining, Inbox: make([]engine.PendingFrame, 3)}
		err := DecodeInbox(AppendInbox(nil, s), again)
		check("inbox", s, again, err)

		residuals := drawResiduals(t)
		residualsAgain, err := DecodeResiduals(AppendResiduals(nil, residuals))
		check("residuals", residuals, residualsAgain, err)

		entries := drawEntries(t)
		entriesAgain, err := decodeEntries(encodeEntries(entries))
		check("entries", entries, entriesAgain, err)

		p := &panes.Snapshot{Watermark: drawTime(t), Output: drawTime(t), Now: drawTime(t)}
		for range rapid.IntRange(0, 3).Draw(t, "pending") {
			p.Pending = append(p.Pending, drawFrame(t))
		}
		panesAgain, err := DecodePanes(AppendPanes(nil, p))
		check("panes", p, panesAgain, err)
	})
}

// Goldens of the bytes: a failure here means that old checkpoints are lost.
func TestLayout(t *testing.T) {
	f := frame.Frame{Data: []byte("ab"), Elements: 2, MinTimestamp: 5}
	late := frame.Frame{Data: []byte("c"), Elements: 1, MinTimestamp: -1, Remote: 300, Empty: true}
	rest := engine.PendingResidual{Frame: f, OutputHold: 7, At: time.UnixMilli(1000).Add(1), Bounded: true}
	for name, test := range map[string]struct {
		part []byte
		want string
	}{
		"inbox": {AppendInbox(nil, &engine.Snapshot{
			Draining: true,
			Bundles: []engine.PendingBundle{{
				InputHold: 3, Residual: true,
				Frames: []engine.BundleFrame{{Frame: f, OutputHold: 4, Part: true}},
				Rest:   []engine.PendingResidual{rest},
			}},
			Inbox: []engine.PendingFrame{{Frame: late, Hold: 6}},
			Marks: []engine.Mark{{Before: 0, Watermark: 8}, {Before: 1, Watermark: 9}},
		}), "0101" + "01060100" + "01" + "080001" + "00020a026162" + "01" + "0ed20f0100" + "00020a026162" +
			"0310" + "020c" + "030101" + "ac02" + "0163" + "0312"},
		"residuals": {AppendResiduals(nil, []engine.PendingResidual{rest}), "01" + "0ed20f0100" + "00020a026162"},
		"entries": {encodeEntries([]Entry{{Channel: 1, Data: true, Frame: f, Hold: 2}, {Channel: 3, Watermark: -2}}),
			"01" + "020104" + "00020a026162" + "040303"},
		"panes": {AppendPanes(nil, &panes.Snapshot{Watermark: 1, Output: 2, Now: 3, Pending: []frame.Frame{f}}), "01" + "020406" + "00020a026162"},
	} {
		if got := fmt.Sprintf("%x", test.part); got != test.want {
			t.Errorf("%s: %s, not %s", name, got, test.want)
		}
	}
}

func TestOtherVersionsAreNamed(t *testing.T) {
	for name, read := range forms {
		if _, err := read([]byte{9}); fault.ClassOf(err) != fault.Corruption || !bytes.Contains([]byte(err.Error()), []byte("version 9")) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := read(nil); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v for no bytes at all", name, err)
		}
	}
}

// Whatever bytes come: they are an error, or what is read of them is written so again.
func FuzzDecode(f *testing.F) {
	fr := frame.Frame{Data: []byte("ab"), Elements: 2, MinTimestamp: 5, Remote: 1}
	f.Add(AppendInbox(nil, &engine.Snapshot{
		Bundles: []engine.PendingBundle{{Frames: []engine.BundleFrame{{Frame: fr}}, Rest: []engine.PendingResidual{{Frame: fr, At: time.UnixMilli(9)}}}},
		Inbox:   []engine.PendingFrame{{Frame: fr}}, Marks: []engine.Mark{{Before: 1, Watermark: 9}},
	}))
	f.Add(AppendResiduals(nil, []engine.PendingResidual{{Frame: fr, At: time.UnixMilli(9)}}))
	f.Add(encodeEntries([]Entry{{Data: true, Frame: fr}, {Watermark: 4}}))
	f.Add(AppendPanes(nil, &panes.Snapshot{Pending: []frame.Frame{fr}}))
	f.Fuzz(func(t *testing.T, part []byte) {
		for name, read := range forms {
			again, err := read(part)
			if err != nil {
				if fault.ClassOf(err) != fault.Corruption {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if !bytes.Equal(again, part) {
				t.Errorf("%s: %x is read, and written as %x", name, part, again)
			}
		}
	})
}
