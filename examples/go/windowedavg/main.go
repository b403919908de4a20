// Command windowedavg averages temperatures per station and hour of event time.
//
//	windowedavg --input ../data/weather.csv --window 1h \
//	    --endpoint 127.0.0.1:8099 --environment_type LOOPBACK
//
// The input has a header and then "time,station,celsius" lines, the time as in
// RFC 3339, in any order.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	beamlog "github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"

	"github.com/lintelrun/lintel/examples/go/internal/fastfn"
)

var (
	input  = flag.String("input", "", "file of time,station,celsius lines")
	output = flag.String("output", "", "file for the result (default: a temporary file)")
	size   = flag.Duration("window", time.Hour, "length of a window")
	runner = flag.String("runner", "universal", "universal: any Beam job endpoint, given by --endpoint")
)

func init() {
	register.Emitter1[string]()
	register.Emitter3[beam.EventTime, string, float64]()
	fastfn.DoFn2[string, func(beam.EventTime, string, float64)](&parseReading{})
	fastfn.DoFn4[beam.Window, string, float64, func(string)](&formatAverage{})
}

func main() {
	flag.Parse()
	beam.Init() // in a worker process this call serves the runner and never returns
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	if *input == "" {
		return fmt.Errorf("--input: a file is needed")
	}
	out := *output
	if out == "" {
		dir, err := os.MkdirTemp("", "windowedavg")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		out = filepath.Join(dir, "averages.txt")
	}
	in, err := filepath.Abs(*input)
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	beamlog.SetLogger(&beamlog.Standard{Level: beamlog.SevWarn})
	if _, err := beam.Run(ctx, *runner, pipeline(in, out, *size)); err != nil {
		return err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	lines := slices.Collect(bytes.Lines(text))
	slices.SortFunc(lines, bytes.Compare)
	_, err = os.Stdout.Write(bytes.Join(lines, nil))
	return err
}

// pipeline builds the averages of in's readings, per station and window.
func pipeline(in, out string, size time.Duration) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	readings := beam.ParDo(s, &parseReading{}, textio.Read(s, in))
	windowed := beam.WindowInto(s, window.NewFixedWindows(size), readings)
	averages := beam.ParDo(s, &formatAverage{}, stats.MeanPerKey(s, windowed))
	textio.Write(s, out, beam.WindowInto(s, window.NewGlobalWindows(), averages))
	return p
}

// parseReading turns a line into a reading at its event time.
type parseReading struct{}

// ProcessElement emits the station and its temperature; it skips the header.
func (*parseReading) ProcessElement(line string, emit func(beam.EventTime, string, float64)) {
	f := strings.Split(line, ",")
	if len(f) != 3 || f[0] == "time" {
		return
	}
	at, err := time.Parse(time.RFC3339, f[0])
	if err != nil {
		panic(err)
	}
	celsius, err := strconv.ParseFloat(f[2], 64)
	if err != nil {
		panic(err)
	}
	emit(mtime.FromTime(at), f[1], celsius)
}

// formatAverage turns an average into a line.
type formatAverage struct{}

// ProcessElement emits "start of window<TAB>station<TAB>average".
func (*formatAverage) ProcessElement(w beam.Window, station string, celsius float64, emit func(string)) {
	start := w.(window.IntervalWindow).Start.ToTime().UTC()
	emit(fmt.Sprintf("%s\t%s\t%.2f", start.Format(time.RFC3339), station, celsius))
}
