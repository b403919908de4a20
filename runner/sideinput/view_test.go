package sideinput

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

// model is window -> key -> values, all encoded; the key of iterables is empty.
type model map[string]map[string][]string

type element struct {
	windows    []string
	key, value string // nested encodings
}

func (m model) add(e element, multimap bool) {
	for _, w := range e.windows {
		if m[w] == nil {
			m[w] = map[string][]string{}
		}
		if multimap {
			m[w][e.key] = append(m[w][e.key], e.value)
		} else {
			m[w][""] = append(m[w][""], e.key+e.value)
		}
	}
}

var testWindows = []string{encodeInterval(0, 10), encodeInterval(5, 15), encodeInterval(-10, 0)}

func drawElements(t *rapid.T, keyed bool) []element {
	keys := rapid.SliceOfN(rapid.StringN(0, 12, -1), 1, 20).Draw(t, "keys")
	sizes := rapid.SampledFrom([]int{0, 1, 10, 200, 5000})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) element {
		e := element{
			windows: rapid.SliceOfNDistinct(rapid.SampledFrom(testWindows), 0, 3, rapid.ID).Draw(t, "windows"),
			value:   nested(strings.Repeat(rapid.StringMatching("[a-z]").Draw(t, "value"), sizes.Draw(t, "size"))),
		}
		if keyed {
			e.key = nested(rapid.SampledFrom(keys).Draw(t, "key"))
		}
		return e
	}), 0, 60).Draw(t, "elements")
}

func build(t interface {
	Fatal(...any)
}, cfg Config, elements []element) *View {
	b, err := NewBuilder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var block []byte
	for i, e := range elements {
		block = coders.AppendHeader(block, int64(i), len(e.windows), []byte(strings.Join(e.windows, "")), []byte{coders.PaneNoFiring})
		block = append(append(block, e.key...), e.value...)
		if i%5 == 4 {
			if err := b.Add(block); err != nil {
				t.Fatal(err)
			}
			clear(block) // it must not be retained
			block = block[:0]
		}
	}
	if err := b.Add(block); err != nil {
		t.Fatal(err)
	}
	v, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return v
}

// readAll reads all pages of a look-up and checks that each ends between elements.
func readAll(t *rapid.T, maxBytes int, look func(token []byte) (data, next []byte, err error), cut func(page []byte) ([]string, bool)) (items []string) {
	var token []byte
	for page := 0; ; page++ {
		data, next, err := look(token)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := cut(data)
		if !ok {
			t.Fatalf("page %d is cut within an element", page)
		}
		if len(got) == 0 && page > 0 {
			t.Fatalf("page %d is empty", page)
		}
		if len(data) > max(maxBytes, 4*5000) && len(got) > 1 {
			t.Fatalf("page %d has %d bytes, %d were wanted", page, len(data), maxBytes)
		}
		items = append(items, got...)
		if len(next) == 0 {
			return items
		}
		token = next
	}
}

func cutBytes(b []byte) (items []string, ok bool) {
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || uint64(len(b)-n) < size {
			return nil, false
		}
		items = append(items, string(b[:n+int(size)]))
		b = b[n+int(size):]
	}
	return items, true
}

// cutGroups cuts KV<bytes, iterable<bytes>> and gives key and sorted values as one item.
func cutGroups(b []byte) (items []string, ok bool) {
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		end := n + int(size) + 4
		if n <= 0 || len(b) < end {
			return nil, false
		}
		key, count := string(b[:end-4]), binary.BigEndian.Uint32(b[end-4:])
		b = b[end:]
		values := make([]string, count)
		for i := range values {
			size, n := binary.Uvarint(b)
			if n <= 0 || uint64(len(b)-n) < size {
				return nil, false
			}
			values[i], b = string(b[:n+int(size)]), b[n+int(size):]
		}
		items = append(items, groupItem(key, values))
	}
	return items, true
}

func groupItem(key string, values []string) string {
	values = slices.Sorted(slices.Values(values))
	return key + "\x00" + strings.Join(values, "")
}

func sameItems(t *rapid.T, what string, got, want []string) {
	slices.Sort(got)
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		t.Fatalf("%s: got %d items %.200q, want %d %.200q", what, len(got), got, len(want), want)
	}
}

func TestViewAgreesWithModel(t *testing.T) {
	dir := t.TempDir()
	onDisk := false
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Multimap: rapid.Bool().Draw(t, "multimap"), Dir: dir}
		keyed := cfg.Multimap || rapid.Bool().Draw(t, "keyed")
		cfg.Input = layoutOf(nopTB{}, keyed, true)
		cfg.MemoryBytes = rapid.SampledFrom([]int64{1, 1 << 12, 0}).Draw(t, "memory")
		elements := drawElements(t, keyed)
		want := model{}
		for _, e := range elements {
			want.add(e, cfg.Multimap)
		}
		v := build(t, cfg, elements)
		defer v.Close()
		onDisk = onDisk || v.Stats().OnDisk > 0
		maxBytes := rapid.SampledFrom([]int{0, 1, 100, 5000, 1 << 20}).Draw(t, "maxBytes")
		for _, window := range append(testWindows, "unknown") {
			if cfg.Multimap {
				checkMultimap(t, v, window, want[window], maxBytes)
				continue
			}
			got := readAll(t, maxBytes, func(token []byte) ([]byte, []byte, error) {
				return v.Iterable([]byte(window), token, maxBytes)
			}, func(b []byte) ([]string, bool) {
				items, ok := cutBytes(b)
				if !keyed {
					return items, ok
				}
				var pairs []string
				for i := 0; i+1 < len(items); i += 2 {
					pairs = append(pairs, items[i]+items[i+1])
				}
				return pairs, ok && len(items)%2 == 0
			})
			sameItems(t, "Iterable", got, want[window][""])
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Fatalf("%v is left", left)
		}
	})
	if !onDisk {
		t.Error("no view was on disk")
	}
}

func checkMultimap(t *rapid.T, v *View, window string, want map[string][]string, maxBytes int) {
	w := []byte(window)
	var keys, groups []string
	for key, values := range want {
		keys, groups = append(keys, key), append(groups, groupItem(key, values))
		got := readAll(t, maxBytes, func(token []byte) ([]byte, []byte, error) {
			return v.Values(w, []byte(key), token, maxBytes)
		}, cutBytes)
		sameItems(t, "Values", got, values)
	}
	if data, next, err := v.Values(w, []byte("unknown"), nil, maxBytes); len(data) > 0 || len(next) > 0 || err != nil {
		t.Fatalf("Values of an unknown key: %q, %q, %v", data, next, err)
	}
	sameItems(t, "Keys", readAll(t, maxBytes, func(token []byte) ([]byte, []byte, error) {
		return v.Keys(w, token, maxBytes)
	}, cutBytes), keys)
	sameItems(t, "KeysValues", readAll(t, maxBytes, func(token []byte) ([]byte, []byte, error) {
		return v.KeysValues(w, token, maxBytes)
	}, cutGroups), groups)
}

// nopTB serves layoutOf within a property, where its failure is a defect of the test.
type nopTB struct{ testing.TB }

func (nopTB) Helper()           {}
func (nopTB) Fatal(args ...any) { panic(args) }

func TestOrderOfArrivalIsKeptInMemory(t *testing.T) {
	var elements []element
	var want string
	for _, value := range []string{"c", "a", "", "b"} {
		elements = append(elements, element{windows: []string{""}, key: nested("k"), value: nested(value)})
		want += nested(value)
	}
	v := build(t, Config{Input: layoutOf(t, true, false), Multimap: true}, elements)
	defer v.Close()
	got, next, err := v.Values(nil, []byte(nested("k")), nil, 1000)
	if string(got) != want || next != nil || err != nil {
		t.Errorf("Values: %q, %q, %v; want %q", got, next, err, want)
	}
}

func TestWrongAccessIsInvalid(t *testing.T) {
	multimap := build(t, Config{Input: layoutOf(t, true, false), Multimap: true}, nil)
	iterable := build(t, Config{Input: layoutOf(t, true, false)}, nil)
	_, _, err1 := multimap.Iterable(nil, nil, 1)
	_, _, err2 := iterable.Values(nil, nil, nil, 1)
	_, _, err3 := iterable.Keys(nil, nil, 1)
	_, _, err4 := iterable.KeysValues(nil, nil, 1)
	_, err5 := NewBuilder(Config{Input: layoutOf(t, false, false), Multimap: true})
	_, err6 := NewBuilder(Config{})
	for i, err := range []error{err1, err2, err3, err4, err5, err6} {
		if fault.ClassOf(err) != fault.Invalid {
			t.Errorf("error %d is %v, want an invalid request", i+1, err)
		}
	}
}

func TestDamagedBlockIsCorruption(t *testing.T) {
	whole := coders.AppendHeader(nil, 0, 1, nil, []byte{coders.PaneNoFiring})
	whole = append(whole, nested("key")+nested("value")...)
	for _, block := range [][]byte{whole[:len(whole)-1], append(slices.Clone(whole), 1)} {
		b, err := NewBuilder(Config{Input: layoutOf(t, true, false), Multimap: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.Add(block); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("error is %v, want a corruption", err)
		}
	}
}

func FuzzTokens(f *testing.F) {
	window := []byte(encodeInterval(0, 10))
	var elements []element
	for i := range 100 {
		elements = append(elements, element{[]string{string(window)}, nested(string(rune('a' + i%3))), nested(strings.Repeat("v", 10*i))})
	}
	multimap := build(f, Config{Input: layoutOf(f, true, true), Multimap: true}, elements)
	iterable := build(f, Config{Input: layoutOf(f, true, true)}, elements)
	f.Add([]byte{1})
	f.Add([]byte{0})
	f.Add([]byte(strings.Repeat("\xff", 11)))
	for _, page := range []int{0, 9000} {
		_, token, _ := iterable.Iterable(window, nil, page)
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token []byte) {
		key := []byte(nested("a"))
		for name, look := range map[string]func(token []byte) ([]byte, []byte, error){
			"Iterable":   func(token []byte) ([]byte, []byte, error) { return iterable.Iterable(window, token, 100) },
			"Values":     func(token []byte) ([]byte, []byte, error) { return multimap.Values(window, key, token, 100) },
			"Keys":       func(token []byte) ([]byte, []byte, error) { return multimap.Keys(window, token, 1) },
			"KeysValues": func(token []byte) ([]byte, []byte, error) { return multimap.KeysValues(window, token, 100) },
		} {
			data, next, err := look(token)
			if err != nil {
				if fault.ClassOf(err) != fault.Invalid || len(data) > 0 || len(next) > 0 {
					t.Fatalf("%s: %q, %q, %v", name, data, next, err)
				}
				continue
			}
			if cut := cutBytes; name != "KeysValues" {
				if _, ok := cut(data); !ok {
					t.Fatalf("%s of token %x gives torn elements", name, token)
				}
			}
		}
	})
}

func TestTokensAreGoodForTheirLookUpOnly(t *testing.T) {
	window, other := []byte(encodeInterval(0, 10)), []byte(encodeInterval(5, 15))
	var elements []element
	for i := range 1000 {
		key := nested("key " + string(rune('a'+i%10)))
		elements = append(elements, element{[]string{string(window), string(other)}, key, nested(strings.Repeat("v", i%100))})
	}
	key, otherKey := []byte(nested("key a")), []byte(nested("key b"))
	for _, memory := range []int64{1, 0} {
		v := build(t, Config{Input: layoutOf(t, true, true), Multimap: true, MemoryBytes: memory, Dir: t.TempDir()}, elements)
		defer v.Close()
		looks := map[string]func(token []byte) ([]byte, []byte, error){
			"values":           func(token []byte) ([]byte, []byte, error) { return v.Values(window, key, token, 100) },
			"values, window":   func(token []byte) ([]byte, []byte, error) { return v.Values(other, key, token, 100) },
			"values, key":      func(token []byte) ([]byte, []byte, error) { return v.Values(window, otherKey, token, 100) },
			"keys":             func(token []byte) ([]byte, []byte, error) { return v.Keys(window, token, 10) },
			"keys, window":     func(token []byte) ([]byte, []byte, error) { return v.Keys(other, token, 10) },
			"keys and values":  func(token []byte) ([]byte, []byte, error) { return v.KeysValues(window, token, 10) },
			"keys and values2": func(token []byte) ([]byte, []byte, error) { return v.KeysValues(other, token, 10) },
		}
		for from, look := range looks {
			_, token, err := look(nil)
			if err != nil || len(token) == 0 {
				t.Fatalf("%s: token %x, error %v", from, token, err)
			}
			for to, look := range looks {
				if _, _, err := look(token); (fault.ClassOf(err) == fault.Invalid) != (from != to) {
					t.Errorf("token of %s, used for %s: error %v", from, to, err)
				}
			}
			for i := range token {
				forged := slices.Clone(token)
				forged[i] ^= 1
				for _, bad := range [][]byte{forged, token[:i+1][:i]} {
					if _, _, err := look(bad); len(bad) > 0 && fault.ClassOf(err) != fault.Invalid {
						t.Errorf("%s: forged token %x: error %v", from, bad, err)
					}
				}
			}
		}
	}
}

func TestManyWindowsAndKeys(t *testing.T) {
	const windows = 1<<windowBits + 100 // some share their rank
	for _, memory := range []int64{100 << 10, 0} {
		b, err := NewBuilder(Config{Input: layoutOf(t, true, true), Multimap: true, MemoryBytes: memory, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var block []byte
		for i := range int64(2 * windows) {
			w := encodeInterval(i%windows, i%windows+1)
			block = coders.AppendHeader(block[:0], 0, 1, []byte(w), []byte{coders.PaneNoFiring})
			block = append(block, nested(strings.Repeat("k", int(i%3)))+nested(w)...)
			if err := b.Add(block); err != nil {
				t.Fatal(err)
			}
		}
		v, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if onDisk := v.Stats().OnDisk > 0; onDisk != (memory > 0) || v.Stats().Keys != 2*windows {
			t.Errorf("the view is %+v", v.Stats())
		}
		if held := 24 * len(v.entries.ranks); memory > 0 && int64(held) > v.entries.data.size/50 {
			t.Errorf("%d bytes are held in memory for an index of %d", held, v.entries.data.size)
		}
		for i := int64(0); i < windows; i += 97 {
			w := encodeInterval(i, i+1)
			var want []string
			for _, j := range []int64{i, i + windows} {
				want = append(want, nested(strings.Repeat("k", int(j%3))))
				if got, _, err := v.Values([]byte(w), []byte(want[len(want)-1]), nil, 1000); string(got) != nested(w) || err != nil {
					t.Fatalf("window %d: values are %q, error %v", i, got, err)
				}
			}
			data, next, err := v.Keys([]byte(w), nil, 1000)
			got, _ := cutBytes(data)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || next != nil || err != nil {
				t.Fatalf("window %d: keys are %q, want %q, token %x, error %v", i, got, want, next, err)
			}
		}
	}
}
