package output

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func linesOf(writes ...string) (lines []string, lastWords string) {
	log := NewLog(func(line string) { lines = append(lines, line) })
	s := log.Stream()
	for _, w := range writes {
		if n, err := s.Write([]byte(w)); n != len(w) || err != nil {
			panic(fmt.Sprint(n, err))
		}
	}
	s.Flush()
	return lines, log.LastWords()
}

func TestStreamCutsLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct{ writes, want []string }{
		{nil, nil},
		{[]string{"one\ntwo\n"}, []string{"one", "two"}},
		{[]string{"o", "ne\r\n\ntw", "o"}, []string{"one", "", "two"}},
		{[]string{"bad \xff byte\n"}, []string{"bad \uFFFD byte"}},
		{[]string{long + "\n"}, []string{long}},
		{[]string{long, "yz\nnext\n"}, []string{long + "… (2 more bytes)", "next"}},
		{[]string{long + "y"}, []string{long + "… (1 more bytes)"}},
	} {
		if got, _ := linesOf(c.writes...); !cmp.Equal(got, c.want) {
			t.Errorf("lines of %.40q are %.80q; want %.80q", c.writes, got, c.want)
		}
	}
}

func TestStreamsOfALogDoNotMixTheirLines(t *testing.T) {
	var lines []string
	log := NewLog(func(line string) { lines = append(lines, line) })
	a, b := log.Stream(), log.Stream()
	for _, w := range []struct {
		to   *Stream
		text string
	}{{a, "on"}, {b, "tw"}, {a, "e\n"}, {b, "o\n"}} {
		if _, err := w.to.Write([]byte(w.text)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"one", "two"}, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// The reason of a crash comes first, and more lines after it than are kept.
func TestLastWordsBeginWithTheCrash(t *testing.T) {
	var report []string
	for i := range 200 {
		report = append(report, fmt.Sprintf("frame %d", i))
	}
	long := strings.Join(report, "\n")
	for name, c := range map[string]struct{ printed, want string }{
		"no crash":    {long, "its last lines:\nframe 150\n"},
		"a crash":     {"before\nfatal error: out of memory\n" + long, "it crashed:\nfatal error: out of memory\nframe 0\nframe 1\nframe 2\nframe 3\nframe 4\nframe 5\nframe 6\nframe 7\nframe 8\nits last lines:\nframe 150\n"},
		"the last":    {"panic: one\n" + long + "\npanic: two\n" + long, "it crashed:\npanic: two\nframe 0\n"},
		"its causes":  {"panic: one\nfatal error: two\n" + long, "it crashed:\npanic: one\nfatal error: two\nframe 0\n"},
		"a short one": {"panic: one\nframe\n", "its last lines:\npanic: one\nframe\n"},
	} {
		if _, got := linesOf(c.printed); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: last words are %.200q, want %q", name, got, c.want)
		}
	}
}

func TestLinesAreTheSameHoweverTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.StringMatching(`[a-z]{0,5}`), 0, 3*maxLines).Draw(t, "lines")
		var all string
		for _, l := range lines {
			all += l + "\n"
		}
		var writes []string
		for rest := all; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "write")
			writes, rest = append(writes, rest[:n]), rest[n:]
		}
		got, lastWords := linesOf(writes...)
		if strings.Join(got, "\n") != strings.Join(lines, "\n") || len(got) != len(lines) {
			t.Fatalf("lines are %q; want %q", got, lines)
		}
		want := "it printed nothing"
		if len(lines) > 0 {
			want = "its last lines:\n"
		}
		for _, l := range lines[max(0, len(lines)-maxLines):] {
			want += l + "\n"
		}
		if lastWords != want {
			t.Fatalf("last words are %q; want %q", lastWords, want)
		}
	})
}
