package statebackend

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
)

// listed is a snapshot of a few records.
type listed []Change

func (l listed) Get([]byte) ([]byte, error) { return nil, nil }
func (l listed) Close() error               { return nil }

func (l listed) Scan(_, _ []byte, visit func(key, value []byte) bool) error {
	for _, c := range l {
		if !visit(c.Key, c.Value) {
			break
		}
	}
	return nil
}

// written returns the files that an image has, by their descriptions.
func written(t interface{ Fatal(...any) }, l listed) (files []File, content [][]byte) {
	i := &recordsImage{l, "image"}
	err := i.Write(context.Background(), func(f File, in io.ReadSeeker) error {
		data, err := io.ReadAll(in)
		files, content = append(files, f), append(content, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, content
}

// decoded returns the changes of a file, with bytes of their own.
func decoded(data []byte) ([]Change, error) {
	d, err := NewDecoder(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var out []Change
	for {
		c, err := d.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		c.Key, c.Value = bytes.Clone(c.Key), bytes.Clone(c.Value)
		out = append(out, c)
	}
}

func same(a, b Change) bool {
	return a.Kind == b.Kind && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) &&
		(a.Kind != DeleteRange || (a.Value == nil) == (b.Value == nil))
}

// The bytes are format: a failure here means that images of earlier builds can't be read.
func TestFilesAreFixed(t *testing.T) {
	_, content := written(t, listed{
		{Key: []byte("key 1"), Value: []byte("a")},
		{Key: []byte("key 12"), Value: []byte("")},
		{Key: []byte("lot"), Value: []byte("bcd")},
	})
	var b Batch
	b.Set([]byte("s"), []byte("1"))
	b.Append([]byte("a"), []byte("2"))
	b.Delete([]byte("d"))
	b.DeleteRange([]byte("r"), []byte("t"))
	b.DeleteRange([]byte("e"), nil)
	var log changeLog
	log.add(&b)
	_, changes := log.file("log")
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"records", content[0], "4c4e544c535441 01 01" +
			"16000000 16000000 06920e12 00 05 01 6b65792031 61  05 01 00 32  00 03 03 6c6f74 626364" +
			"00000000 00000000 14977cb0"},
		{"changes", changes, "4c4e544c535441 01 02" +
			"17000000 17000000 4aeec92a 01 01 01 73 31  02 01 01 61 32  03 01 00 64  04 01 01 72 74  05 01 00 65" +
			"00000000 00000000 14977cb0"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s: %x, want %x", c.what, c.got, want)
		}
	}
	got, err := decoded(changes)
	if want := slices.Collect(b.All()); err != nil || !slices.EqualFunc(got, want, same) {
		t.Errorf("changes: %v, %v; want %v", got, err, want)
	}
}

func TestRecordsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := map[string]int{}
		for range rapid.IntRange(0, 300).Draw(t, "records") {
			prefix := rapid.SampledFrom([]string{"", "a", "ab", strings.Repeat("long", 50)}).Draw(t, "prefix")
			m[prefix+rapid.StringN(1, 4, 8).Draw(t, "key")] = rapid.SampledFrom([]int{0, 1, 10, 3000, 100_000}).Draw(t, "value")
		}
		var l listed
		for k, n := range m {
			l = append(l, Change{Key: []byte(k), Value: bytes.Repeat([]byte("v"), n)})
		}
		slices.SortFunc(l, func(a, b Change) int { return bytes.Compare(a.Key, b.Key) })
		var got []Change
		files, content := written(t, l)
		for i, data := range content {
			f := files[i]
			f.FirstGroup, f.EndGroup = 0, 0 // some keys look like those of groups
			if f != fileOf(f.Name, data) {
				t.Fatalf("%+v is not what it says", files[i])
			}
			changes, err := decoded(data)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, changes...)
		}
		if !slices.EqualFunc(got, l, same) {
			t.Fatalf("%d records come back of %d, or others", len(got), len(l))
		}
	})
}

// Large states are of several files, each with the key groups that it has, and read by those alone who want them.
func TestFilesHaveKeyGroups(t *testing.T) {
	var l listed
	l = append(l, Change{Key: TaskKey("position"), Value: []byte("1")})
	rng := rand.NewChaCha8([32]byte{})
	for g := range 64 {
		c := Cell{Scope: Scope{Group: uint16(g), Transform: "t"}, State: "s"}
		noise := make([]byte, 1<<20)
		_, _ = rng.Read(noise) // it has no errors
		l = append(l, Change{Key: c.AppendKey(nil), Value: noise})
	}
	files, content := written(t, l)
	if len(files) < 4 || files[0].EndGroup != 0 {
		t.Errorf("%d files, of which the first, %+v, has records of no group", len(files), files[0])
	}
	next := 0
	for i, f := range files[1:] {
		if f.FirstGroup < next || f.EndGroup <= f.FirstGroup {
			t.Errorf("%+v after groups before %d", f, next)
		}
		next = f.EndGroup
		changes, err := decoded(content[i+1])
		if err != nil || len(changes) != f.EndGroup-f.FirstGroup {
			t.Errorf("%+v has %d records, %v", f, len(changes), err)
		}
	}
	last := files[len(files)-1]
	p := Part{}
	p.From, p.To = GroupRange(0, last.FirstGroup)
	if p.Wants(last) || !p.Wants(files[0]) || !p.Wants(files[len(files)-2]) {
		t.Errorf("groups before %d: wants the last file: %v, the first: %v", last.FirstGroup, p.Wants(last), p.Wants(files[0]))
	}
}

func TestClip(t *testing.T) {
	p := Part{From: []byte("d"), To: []byte("m")}
	for _, c := range []struct {
		change, want Change // want without a key: nothing is left
	}{
		{Change{Kind: Set, Key: []byte("d"), Value: []byte("v")}, Change{Kind: Set, Key: []byte("d"), Value: []byte("v")}},
		{Change{Kind: Set, Key: []byte("m")}, Change{}},
		{Change{Kind: Delete, Key: []byte("c")}, Change{}},
		{Change{Kind: DeleteRange, Key: []byte("a"), Value: []byte("z")}, Change{Kind: DeleteRange, Key: []byte("d"), Value: []byte("m")}},
		{Change{Kind: DeleteRange, Key: []byte("e"), Value: []byte("f")}, Change{Kind: DeleteRange, Key: []byte("e"), Value: []byte("f")}},
		{Change{Kind: DeleteRange, Key: []byte("e")}, Change{Kind: DeleteRange, Key: []byte("e"), Value: []byte("m")}},
		{Change{Kind: DeleteRange, Key: []byte("a"), Value: []byte("d")}, Change{}},
		{Change{Kind: DeleteRange, Key: []byte("m"), Value: []byte("z")}, Change{}},
	} {
		got := c.change
		if left := p.Clip(&got); left != (c.want.Key != nil) || left && !same(got, c.want) {
			t.Errorf("%v is %v and left %v, want %v", c.change, got, left, c.want)
		}
	}
	endless := Part{From: []byte("d")}
	c := Change{Kind: DeleteRange, Key: []byte("a")}
	if !endless.Clip(&c) || c.Value != nil || string(c.Key) != "d" {
		t.Errorf("without an end: %v", c)
	}
}

func TestUnreadableFileIsNoCorruption(t *testing.T) {
	broken := errors.New("the network is down")
	_, content := written(t, listed{{Key: []byte("k"), Value: []byte("v")}})
	p := Part{Open: func(context.Context, File) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(content[0][:20]), failing{broken})), nil
	}}
	err := p.Read(t.Context(), fileOf("f", content[0]), func(r io.Reader) error {
		d, err := NewDecoder(r)
		if err == nil {
			_, err = d.Next()
		}
		return err
	})
	if !errors.Is(err, broken) || fault.ClassOf(err) == fault.Corruption {
		t.Errorf("%v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Whatever the bytes are, they decode to what makes the same again or to an error of class corruption.
func FuzzDecoder(f *testing.F) {
	_, content := written(f, listed{
		{Key: []byte("key 1"), Value: []byte("a")}, {Key: []byte("key 12"), Value: bytes.Repeat([]byte("abc"), 100)},
	})
	f.Add(content[0])
	var b Batch
	b.Append([]byte("a"), []byte("2"))
	b.DeleteRange([]byte("r"), []byte("t"))
	b.DeleteRange([]byte("e"), nil)
	var log changeLog
	log.add(&b)
	_, changes := log.file("log")
	f.Add(changes)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decoded(reseal(data))
		if err != nil {
			if fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("%v, of class %v", err, fault.ClassOf(err))
			}
			return
		}
		var again Batch
		for _, c := range got {
			again.Add(c)
		}
		var log changeLog
		log.add(&again)
		_, file := log.file("again")
		back, err := decoded(file)
		if err != nil || !slices.EqualFunc(got, back, same) {
			t.Fatalf("%v came back as %v, %v", got, back, err)
		}
	})
}

// reseal makes the checksums right as far as there are blocks, so that what is behind them is reached.
func reseal(data []byte) []byte {
	e := fileEncoder{out: bytes.Clone(data)}
	for at := headBytes; at+frameBytes <= len(e.out); {
		stored := int(uint32(e.out[at]) | uint32(e.out[at+1])<<8 | uint32(e.out[at+2])<<16 | uint32(e.out[at+3])<<24)
		if stored > len(e.out)-at-frameBytes {
			break
		}
		whole := e.out
		e.out = e.out[:at+frameBytes+stored]
		e.seal(at)
		e.out = whole
		at += frameBytes + stored
	}
	return e.out
}

func ExampleForm() {
	fmt.Println(Records, Tables, Form(7))
	// Output: records tables form 7
}
