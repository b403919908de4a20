package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/lintelrun/lintel/examples/go/internal/fastfn"
)

func init() {
	register.Emitter1[string]()
	register.Emitter1[WordCount]()
	register.Emitter2[string, int64]()
	beam.RegisterType(typeOf[readLines]())
	beam.RegisterType(typeOf[topWords]())
	fastfn.DoFn2[string, func(string)](&listFiles{})
	fastfn.DoFn3[context.Context, string, func(string, int64)](&splitWords{})
	fastfn.DoFn3[string, int64, func(WordCount)](&pairUp{})
	fastfn.DoFn2[[]WordCount, func(string)](&formatCounts{})
	fastfn.Function2(sum)
}

// Counters are added to as the pipeline runs, so they show its progress.
var (
	lineCounter = beam.NewCounter("wordcount", "lines")
	wordCounter = beam.NewCounter("wordcount", "words")
)

// WordCount is how often a word was seen.
type WordCount struct {
	Word  string
	Count int64
}

// listFiles turns a folder into the files below it, and a file into itself.
type listFiles struct{ Ext string }

// ProcessElement emits the path of each regular file.
func (f *listFiles) ProcessElement(root string, emit func(string)) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Type().IsRegular() && (path == root || strings.HasSuffix(path, f.Ext)):
			emit(path)
		}
		return nil
	})
	if err != nil {
		panic(err) // fails the bundle: the runner tries again, then fails the job with this text
	}
}

// splitWords emits (word, 1) for each word of a line: letters, digits and
// underscores, beginning with a letter or an underscore.
type splitWords struct{}

// ProcessElement splits one line.
func (*splitWords) ProcessElement(ctx context.Context, line string, emit func(string, int64)) {
	n, start := int64(0), -1
	for i := 0; i <= len(line); i++ {
		if i < len(line) && (isLetter(line[i]) || start >= 0 && isDigit(line[i])) {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			emit(line[start:i], 1)
			n++
			start = -1
		}
	}
	lineCounter.Inc(ctx, 1)
	wordCounter.Inc(ctx, n)
}

func isLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func sum(a, b int64) int64 { return a + b }

// pairUp makes a word and its count one value, for the global combine.
type pairUp struct{}

// ProcessElement emits the pair.
func (*pairUp) ProcessElement(word string, count int64, emit func(WordCount)) {
	emit(WordCount{word, count})
}

// topWords is a CombineFn that keeps the N most frequent words.
type topWords struct{ N int }

// CreateAccumulator begins with no words.
func (f *topWords) CreateAccumulator() []WordCount { return nil }

// AddInput adds one word. The accumulator grows to twice N before it is cut, so
// that a word costs an append and, now and then, its share of a sort.
func (f *topWords) AddInput(acc []WordCount, w WordCount) []WordCount {
	if acc = append(acc, w); len(acc) >= 2*f.N {
		acc = f.best(acc)
	}
	return acc
}

// MergeAccumulators joins two accumulators.
func (f *topWords) MergeAccumulators(a, b []WordCount) []WordCount {
	return f.best(append(a, b...))
}

// ExtractOutput is the result, the most frequent word first.
func (f *topWords) ExtractOutput(acc []WordCount) []WordCount { return f.best(acc) }

func (f *topWords) best(acc []WordCount) []WordCount {
	slices.SortFunc(acc, func(a, b WordCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Word, b.Word))
	})
	return acc[:min(f.N, len(acc))]
}

// formatCounts turns the result into lines.
type formatCounts struct{}

// ProcessElement emits one "count<TAB>word" line a word.
func (*formatCounts) ProcessElement(words []WordCount, emit func(string)) {
	for _, w := range words {
		emit(fmt.Sprintf("%d\t%s", w.Count, w.Word))
	}
}
