package parts

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	if rapid.Bool().Draw(t, "round") {
		s.Round = engine.Round{Watermark: drawTime(t), Clock: time.UnixMilli(rapid.Int64Range(0, 1<<45).Draw(t, "clock")), Firing: rapid.Bool().Draw(t, "firing")}
	}
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

// decodeEntries reads a part byte by byte, or as it is read otherwise.
func decodeEntries(part []byte, piece int) (all []Entry, err error) {
	for e, err := range entries(&pieces{part: bytes.NewReader(part), left: int64(len(part)), piece: piece}) {
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
		all, err := decodeEntries(part, 1)
		if err == nil {
			all, err = decodeEntries(part, pieceBytes)
		}
		return encodeEntries(all), err
	},
	"panes": func(part []byte) ([]byte, error) {
		s, err := DecodePanes(part)
		return AppendPanes(nil, s), err
	},
	"stream": func(part []byte) ([]byte, error) {
		s, err := DecodeStream(part)
		return AppendStream(nil, s), err
	},
	"spool": func(part []byte) ([]byte, error) {
		s, err := DecodeSpool(part)
		return AppendSpool(nil, s), err
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
		entriesAgain, err := decodeEntries(encodeEntries(entries), rapid.IntRange(1, 100).Draw(t, "piece"))
		check("entries", entries, entriesAgain, err)

		p := &panes.Snapshot{Watermark: drawTime(t), Output: drawTime(t), Now: drawTime(t)}
		for range rapid.IntRange(0, 3).Draw(t, "pending") {
			p.Pending = append(p.Pending, drawFrame(t))
		}
		panesAgain, err := DecodePanes(AppendPanes(nil, p))
		check("panes", p, panesAgain, err)

		stream := &Stream{Acted: rapid.IntRange(0, 1<<31-1).Draw(t, "acted"), Now: drawTime(t), Ended: rapid.Bool().Draw(t, "ended")}
		streamAgain, err := DecodeStream(AppendStream(nil, stream))
		check("stream", stream, streamAgain, err)

		spool := &Spool{Last: rapid.Uint64().Draw(t, "last")}
		for range rapid.IntRange(0, 3).Draw(t, "panes") {
			pages := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 2, 5).Draw(t, "pages")
			slices.Sort(pages)
			spool.Panes = append(spool.Panes, SpooledPane{Number: rapid.Uint64Range(0, spool.Last).Draw(t, "number"), File: rapid.IntRange(0, 9).Draw(t, "file"), Pages: pages})
		}
		spoolAgain, err := DecodeSpool(AppendSpool(nil, spool))
		check("spool", spool, spoolAgain, err)

		elements := rapid.SliceOf(rapid.Byte()).Draw(t, "elements")
		elementsAgain, err := DecodeSide(append(AppendSide(nil), elements...))
		check("side", elements, elementsAgain, err)
	})
}

var update = flag.Bool("update", false, "write the golden file, if there is none")

// examples are a part of each kind that has all there is, by name and in order.
func examples() (all []example) {
	f := frame.Frame{Data: []byte("ab"), Elements: 2, MinTimestamp: 5}
	empty := frame.Frame{Data: []byte("c"), Elements: 1, MinTimestamp: -1, Remote: 300, Empty: true}
	rest := engine.PendingResidual{Frame: f, OutputHold: 7, At: time.UnixMilli(1000).Add(1), Bounded: true}
	return []example{
		{"inbox", AppendInbox(nil, &engine.Snapshot{
			Draining: true,
			Bundles: []engine.PendingBundle{{
				InputHold: 3, Residual: true,
				Frames: []engine.BundleFrame{{Frame: f, OutputHold: 4, Part: true}},
				Rest:   []engine.PendingResidual{rest},
			}},
			Inbox: []engine.PendingFrame{{Frame: empty, Hold: 6}},
			Marks: []engine.Mark{{Before: 0, Watermark: 8}, {Before: 1, Watermark: 9}},
		})},
		{"inbox", AppendInbox(nil, &engine.Snapshot{
			Round: engine.Round{Watermark: 8, Clock: time.UnixMilli(1000), Firing: true},
			Inbox: []engine.PendingFrame{{Frame: f, Hold: 6}},
		})},
		{"residuals", AppendResiduals(nil, []engine.PendingResidual{rest, {Frame: empty, OutputHold: frame.MinTimestamp, At: time.UnixMilli(-1), Truncated: true}})},
		{"entries", encodeEntries([]Entry{{Channel: 1, Data: true, Frame: f, Hold: 2}, {Channel: 300, Watermark: frame.MaxTimestamp}})},
		{"panes", AppendPanes(nil, &panes.Snapshot{Watermark: 1, Output: 2, Now: 3, Pending: []frame.Frame{f, empty}})},
		{"stream", AppendStream(nil, &Stream{Acted: 300, Now: 2000, Ended: true})},
		{"spool", AppendSpool(nil, &Spool{Last: 9, Panes: []SpooledPane{{Number: 7, Pages: []int64{0, 300}}, {Number: 9, File: 1, Pages: []int64{5, 6, 7}}}})},
	}
}

type example struct {
	kind string
	part []byte
}

// Parts are as they were in version 1, byte by byte, and are read by every build: a failure here means that old
// checkpoints are lost.
func TestOldParts(t *testing.T) {
	var now strings.Builder
	for _, e := range examples() {
		fmt.Fprintf(&now, "%s %x\n", e.kind, e.part)
	}
	golden := filepath.Join("testdata", "parts-v1")
	if _, err := os.Stat(golden); *update && os.IsNotExist(err) {
		if err := os.WriteFile(golden, []byte(now.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), now.String()); diff != "" {
		t.Errorf("(-version 1 +written):\n%s", diff)
	}
	for line := range strings.Lines(string(want)) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		part, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := forms[kind](part); err != nil || !bytes.Equal(again, part) {
			t.Errorf("%s: %x is read as %x, %v", kind, part, again, err)
		}
	}
}

// A part that was cut short is found, unless it could have ended there, and no damage is anything but an error or another
// part: the checksum of its file tells which.
func TestDamagedParts(t *testing.T) {
	for _, e := range examples() {
		read := forms[e.kind]
		check := func(part []byte) {
			t.Helper()
			again, err := read(part)
			if err != nil && fault.ClassOf(err) != fault.Corruption || err == nil && !bytes.Equal(again, part) {
				t.Errorf("%s: %x is read as %x, %v", e.kind, part, again, err)
			}
		}
		for i := range e.part {
			check(e.part[:i])
			for bit := range 8 {
				bad := bytes.Clone(e.part)
				bad[i] ^= 1 << bit
				check(bad)
			}
		}
		if _, err := read(append(bytes.Clone(e.part), 0)); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v for a byte too many", e.kind, err)
		}
		if _, err := read(e.part[:len(e.part)-1]); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v for a byte too few", e.kind, err)
		}
	}
}

func TestOtherVersionsAreNamed(t *testing.T) {
	for name, read := range forms {
		if _, err := read([]byte{9}); fault.ClassOf(err) != fault.Corruption || !strings.Contains(err.Error(), "version 9") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := read(nil); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v for no bytes at all", name, err)
		}
	}
}

// Whatever bytes come: they are an error, or what is read of them is written so again.
func FuzzDecode(f *testing.F) {
	for _, e := range examples() {
		f.Add(e.part)
	}
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
