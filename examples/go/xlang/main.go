// Command xlang counts words that differ in case and accents only. The Go SDK reads and
// counts them; what are accents knows Python's library, so that part of the pipeline is
// a transform of the Python SDK, run by its workers.
//
//	python -m apache_beam.runners.portability.expansion_service_main \
//	    --port=8097 --fully_qualified_name_glob='*' --serve_loopback_worker
//	xlang --expansion_service localhost:8097 --output counts.txt \
//	    --endpoint 127.0.0.1:8099 --environment_type LOOPBACK café Cafe CAFÉ tea
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"path/filepath"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	beamlog "github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/xlang/python"
)

// fold is a transform of counted words. The type hint gives its output a coder that Go
// has too; on a CombinePerKey at the end, Python would not heed it.
const fold = `
import unicodedata
import apache_beam as beam

def fold(counts):
    def plain(word, n):
        letters = unicodedata.normalize('NFD', word.lower())
        return ''.join(c for c in letters if not unicodedata.combining(c)), n

    return counts | beam.MapTuple(plain).with_output_types(tuple[str, int])
`

var (
	service = flag.String("expansion_service", "localhost:8097", "address of Python's expansion service")
	output  = flag.String("output", "", "file for the result")
	runner  = flag.String("runner", "universal", "universal: any Beam job endpoint, given by --endpoint")
)

// arguments of a Python transform, and keyword arguments: fields are named as there.
type (
	arguments struct{}
	keywords  struct {
		Source python.CallableSource `beam:"source"`
	}
)

func init() {
	beam.RegisterType(reflect.TypeFor[arguments]())
	beam.RegisterType(reflect.TypeFor[keywords]())
	beam.RegisterFunction(format)
	beam.RegisterFunction(widen)
}

// widen makes counts of a type for which Python has a coder: that of int is Go's own.
func widen(word string, n int) (string, int64) { return word, int64(n) }

func format(word string, n int64) string { return fmt.Sprintf("%d\t%s", n, word) }

func main() {
	flag.Parse()
	beam.Init() // in a worker process this call serves the runner and never returns
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	if flag.NArg() == 0 || *output == "" {
		return fmt.Errorf("words, and --output for the result, are needed")
	}
	out, err := filepath.Abs(*output)
	if err != nil {
		return err
	}
	beamlog.SetLogger(&beamlog.Standard{Level: beamlog.SevWarn})
	p, s := beam.NewPipelineWithRoot()
	counts := beam.ParDo(s, widen, stats.Count(s, beam.CreateList(s, flag.Args())))
	textio.Write(s, out, beam.ParDo(s, format, stats.SumPerKey(s, folded(s, counts))))
	_, err = beam.Run(ctx, *runner, p)
	return err
}

// folded asks Python's expansion service, which must run, what fold consists of.
func folded(s beam.Scope, counts beam.PCollection) beam.PCollection {
	transform := python.NewExternalTransform[arguments, keywords]("__callable__")
	transform.WithKwargs(keywords{Source: fold})
	counted := typex.NewKV(typex.New(reflectx.String), typex.New(reflectx.Int64))
	return beam.CrossLanguage(s, "beam:transforms:python:fully_qualified_named", beam.CrossLanguagePayload(transform),
		*service, beam.UnnamedInput(counts), beam.UnnamedOutput(counted))[graph.UnnamedOutputTag]
}
