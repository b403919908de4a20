package coders

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

func mustTimers(t testing.TB, key, window yamlCoder) *Timers {
	return NewTimers(mustCompile(t, key), mustCompile(t, window))
}

// standardTimers are the YAML's timers, with the layouts that their coders give.
func standardTimers(t testing.TB) (layouts []*Timers, found []example) {
	for _, x := range examples(t) {
		if x.coder.URN() == urns.CoderTimer {
			c := x.coder.Components()
			layouts = append(layouts, NewTimers(c[0], c[1]))
			found = append(found, x)
		}
	}
	return layouts, found
}

func TestStandardTimers(t *testing.T) {
	type pane struct {
		First       bool   `yaml:"is_first"`
		Last        bool   `yaml:"is_last"`
		Timing      string `yaml:"timing"`
		Index       int64  `yaml:"index"`
		OnTimeIndex int64  `yaml:"on_time_index"`
	}
	type timer struct {
		Key     string   `yaml:"userKey"`
		Tag     string   `yaml:"dynamicTimerTag"`
		Windows []string `yaml:"windows"`
		Clear   bool     `yaml:"clearBit"`
		Fire    int64    `yaml:"fireTimestamp"`
		Hold    int64    `yaml:"holdTimestamp"`
		Pane    *pane    `yaml:"pane"`
	}
	timings := [...]string{"EARLY", "ON_TIME", "LATE", "UNKNOWN"}
	layouts, all := standardTimers(t)
	if len(all) < 2 {
		t.Fatalf("only %d timers", len(all))
	}
	for i, x := range all {
		var want timer
		if err := x.value.Decode(&want); err != nil {
			t.Fatal(err)
		}
		var v Timer
		if err := layouts[i].Next(append(bytes.Clone(x.encoded), "what follows"...), &v); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		got := timer{Key: string(v.Key[1:]), Tag: string(v.Tag), Clear: v.Clear, Fire: v.Fire, Hold: v.Hold}
		if len(v.Key) != 1+int(v.Key[0]) || v.NumWindows != len(want.Windows) || len(v.Windows) != 0 || v.Size != len(x.encoded) {
			t.Errorf("%s: %+v", x.name, v)
		}
		if want.Pane != nil {
			p, n, err := DecodePane(v.Pane)
			if n != len(v.Pane) || err != nil {
				t.Errorf("%s: pane of %d bytes of %x, %v", x.name, n, v.Pane, err)
			}
			got.Pane = &pane{p.First, p.Last, timings[p.Timing], p.Index, p.OnTimeIndex}
			if *got.Pane != *want.Pane {
				t.Errorf("%s: pane %+v", x.name, *got.Pane)
			}
		} else if v.Pane != nil {
			t.Errorf("%s: pane %x of a timer that is cleared", x.name, v.Pane)
		}
		got.Pane, want.Pane, want.Windows = nil, nil, nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, not %+v", x.name, got, want)
		}
		if again := v.Append(nil); !bytes.Equal(again, x.encoded) {
			t.Errorf("%s: written as %x, not %x", x.name, again, x.encoded)
		}
		for n := range x.encoded {
			if err := layouts[i].Next(x.encoded[:n], &v); !errors.Is(err, ErrShort) {
				t.Errorf("%s: the first %d bytes: %v", x.name, n, err)
			}
		}
	}
}

// TestTimersAreReadAsWritten writes blocks of random timers and reads them back.
func TestTimersAreReadAsWritten(t *testing.T) {
	layout := mustTimers(t, of(urns.CoderKV, yamlVarint, yamlBytes), yamlInterval)
	timestamps := rapid.OneOf(rapid.Int64Range(MinTimestamp, MaxTimestamp), rapid.Int64Range(-2, 2))
	rapid.Check(t, func(t *rapid.T) {
		var block []byte
		var want []Timer
		for range rapid.IntRange(0, 5).Draw(t, "timers") {
			v := Timer{
				Key:        AppendBytes(AppendVarint(nil, rapid.Int64().Draw(t, "key")), rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "more key")),
				Tag:        rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "tag"),
				NumWindows: rapid.IntRange(0, 3).Draw(t, "windows"),
				Windows:    []byte{},
				Clear:      rapid.Bool().Draw(t, "clear"),
			}
			for range v.NumWindows {
				v.Windows = AppendTimestamp(v.Windows, timestamps.Draw(t, "end"))
				v.Windows = AppendVarint(v.Windows, rapid.Int64Min(0).Draw(t, "span"))
			}
			if !v.Clear {
				v.Fire, v.Hold = timestamps.Draw(t, "fire"), timestamps.Draw(t, "hold")
				v.Pane = Pane{Timing: OnTime, Index: rapid.Int64Min(0).Draw(t, "index")}.Append(nil)
			}
			start := len(block)
			block = v.Append(block)
			v.Size = len(block) - start
			want = append(want, v)
		}
		for i, x := range want {
			var v Timer
			for cut := range x.Size {
				if err := layout.Next(block[:cut], &v); !errors.Is(err, ErrShort) {
					t.Fatalf("timer %d cut to %d bytes: %v", i, cut, err)
				}
			}
			if err := layout.Next(block, &v); err != nil || !sameTimer(v, x) {
				t.Fatalf("timer %d: %+v, %v; want %+v", i, v, err, x)
			}
			block = block[v.Size:]
		}
	})
}

func sameTimer(a, b Timer) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Tag, b.Tag) && a.NumWindows == b.NumWindows && bytes.Equal(a.Windows, b.Windows) &&
		a.Clear == b.Clear && a.Fire == b.Fire && a.Hold == b.Hold && bytes.Equal(a.Pane, b.Pane) && a.Size == b.Size
}

func TestHostileTimers(t *testing.T) {
	global := mustTimers(t, yamlBytes, yamlGlobal)
	head := []byte{1, 'k', 0} // key and an empty tag
	times := bytes.Repeat([]byte{0x80, 0, 0, 0, 0, 0, 0, 1}, 2)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, b := range map[string][]byte{
		"a key of negative length":       {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"a tag of negative length":       join([]byte{1, 'k'}, AppendVarint(nil, -1)),
		"a tag of 2^62 bytes":            join([]byte{1, 'k'}, AppendVarint(nil, 1<<62)),
		"a tag's length of 11 bytes":     join([]byte{1, 'k'}, bytes.Repeat([]byte{0xff}, 11)),
		"a negative number of windows":   join(head, []byte{0x80, 0, 0, 0, 1}),
		"a clear bit of 2":               join(head, []byte{0, 0, 0, 1, 2}),
		"a pane of three indices":        join(head, []byte{0, 0, 0, 1, 0}, times, []byte{0x30, 0, 0}),
		"a pane's index without an end":  join(head, []byte{0, 0, 0, 1, 0}, times, []byte{0x10}, bytes.Repeat([]byte{0xff}, 11)),
		"a pane of another sort, 0x7f":   join(head, []byte{0, 0, 0, 1, 0}, times, []byte{0x7f, 0, 0}),
		"a pane of another sort, all 1s": join(head, []byte{0, 0, 0, 1, 0}, times, []byte{0xff, 0, 0}),
	} {
		var v Timer
		if err := global.Next(b, &v); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	// As many global windows as can be stated take no bytes, and must take no time.
	var v Timer
	if err := global.Next(join(head, []byte{0x7f, 0xff, 0xff, 0xff, 1}), &v); err != nil || v.NumWindows != math.MaxInt32 {
		t.Errorf("2^31-1 global windows: %+v, %v", v, err)
	}
	interval := mustTimers(t, yamlBytes, yamlInterval)
	if err := interval.Next(join(head, []byte{0x7f, 0xff, 0xff, 0xff, 1}), &v); !errors.Is(err, ErrShort) {
		t.Errorf("2^31-1 interval windows in a byte: %v", err)
	}
}

func TestTimersAreReadWithoutAllocating(t *testing.T) {
	layout := mustTimers(t, yamlBytes, yamlInterval)
	set := Timer{
		Key: AppendBytes(nil, []byte("key")), Tag: []byte("tag"), NumWindows: 1,
		Windows: AppendVarint(AppendTimestamp(nil, 10), 10), Fire: 5, Hold: 4, Pane: []byte{PaneNoFiring},
	}
	b := set.Append(nil)
	again := make([]byte, 0, len(b))
	var v Timer
	if n := testing.AllocsPerRun(100, func() {
		if err := layout.Next(b, &v); err != nil {
			t.Fatal(err)
		}
		again = v.Append(again[:0])
		if err := layout.Next(b[:len(b)-1], &v); !errors.Is(err, ErrShort) {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzTimers cuts arbitrary blocks; what is a timer is written again as it was read.
func FuzzTimers(f *testing.F) {
	layouts, all := standardTimers(f)
	for i, x := range all {
		f.Add(uint8(i), x.encoded)
	}
	layouts = append(layouts,
		mustTimers(f, of(urns.CoderKV, yamlBytes, of(urns.CoderIterable, yamlVarint)), yamlInterval),
		mustTimers(f, of(urns.CoderLengthPrefix, yamlBytes), of(urns.CoderCustomWindow, yamlInterval)))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		layout := layouts[int(which)%len(layouts)]
		var v Timer
		if err := layout.Next(b, &v); err != nil {
			if !errors.Is(err, ErrShort) && fault.ClassOf(err) != fault.Corruption {
				t.Fatal(err)
			}
			return
		}
		if v.Size <= 0 || v.Size > len(b) || v.NumWindows < 0 || v.Clear && v.Pane != nil {
			t.Fatalf("%+v of %d bytes", v, len(b))
		}
		var again Timer
		encoded := v.Append(nil)
		if err := layout.Next(encoded, &again); err != nil {
			t.Fatalf("%+v is written as %x: %v", v, encoded, err)
		}
		again.Size = v.Size // lengths may have been written longer than need be
		if !sameTimer(v, again) {
			t.Fatalf("%+v is read again as %+v", v, again)
		}
	})
}
