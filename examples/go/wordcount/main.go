// Command wordcount counts the words of a file, or of all files of a folder.
//
//	wordcount --input DIR --ext .go --top 20 --output counts.txt \
//	    --endpoint 127.0.0.1:8099 --environment_type LOOPBACK
//
// The pipeline writes the most frequent words to --output, one "count<TAB>word"
// a line; the program then prints that file and how fast the words were counted.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	beamlog "github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

var (
	input  = flag.String("input", "", "file or folder to read")
	ext    = flag.String("ext", "", "of a folder, only the files with this ending, such as .go")
	top    = flag.Int("top", 20, "how many words to print")
	output = flag.String("output", "", "file for the result (default: a temporary file)")
	runner = flag.String("runner", "universal", "universal: any Beam job endpoint, given by --endpoint")
)

func main() {
	flag.Parse()
	beam.Init() // in a worker process this call serves the runner and never returns
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	if *input == "" {
		return fmt.Errorf("--input: a file or folder is needed")
	}
	if *top < 1 {
		return fmt.Errorf("--top=%d: at least 1 is needed", *top)
	}
	in, err := filepath.Abs(*input)
	if err != nil {
		return err
	}
	if _, err := os.Stat(in); err != nil {
		return fmt.Errorf("--input: %w", err)
	}
	out := *output
	if out == "" {
		dir, err := os.MkdirTemp("", "wordcount")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		out = filepath.Join(dir, "counts.txt")
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}

	beamlog.SetLogger(&beamlog.Standard{Level: beamlog.SevWarn})
	p := pipeline(in, *ext, *top, out)
	start := time.Now()
	result, err := beam.Run(ctx, *runner, p)
	if err != nil {
		return err
	}
	elapsed := time.Since(start)

	if err := printFile(os.Stdout, out); err != nil {
		return err
	}
	lines, words := counter(result, "lines"), counter(result, "words")
	fmt.Printf("%d words in %d lines in %.1f s: %.0f words/s\n",
		words, lines, elapsed.Seconds(), float64(words)/elapsed.Seconds())
	return nil
}

// pipeline builds the word count of in and writes the n most frequent words to out.
func pipeline(in, ext string, n int, out string) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	roots := beam.Create(s, in)
	files := beam.ParDo(s, &listFiles{Ext: ext}, roots)
	lines := beam.ParDo(s, &readLines{}, beam.Reshuffle(s, files))
	words := beam.ParDo(s, &splitWords{}, lines)
	counts := beam.CombinePerKey(s, sum, words)
	best := beam.Combine(s, &topWords{N: n}, beam.ParDo(s, &pairUp{}, counts))
	textio.Write(s, out, beam.ParDo(s, &formatCounts{}, best))
	return p
}

// counter is the committed value of a user counter, over all transforms.
func counter(r beam.PipelineResult, name string) int64 {
	var n int64
	found := r.Metrics().Query(func(m beam.MetricResult) bool { return m.Name() == name })
	for _, c := range found.Counters() {
		n += c.Result()
	}
	return n
}

func printFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
