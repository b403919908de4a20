// Command pipelines runs pipelines of the Go SDK that are hard on a runner's memory.
// Each checks its own result and fails if that is wrong.
//
//	pipelines --case group --n 200000 --value 1000 --keys 1000 --endpoint 127.0.0.1:8099 --environment_type LOOPBACK
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
	beamlog "github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
)

var (
	caseName = flag.String("case", "", "which pipeline")
	n        = flag.Int64("n", 1000, "elements")
	value    = flag.Int64("value", 100, "bytes of an element's value, at least 8")
	keys     = flag.Int64("keys", 1000, "keys")
	how      = flag.String("how", "error", "how --case failing fails: error, crash or exhaust (its memory)")
	shards   = flag.Int64("shards", 4, "how many parts the elements are made in")
	stream   = flag.Bool("stream", false, "whether the input is unbounded, though it ends")
	// It is known from Prepare on, which is where the time begins.
	cancelAfter = flag.Duration("cancel_after", 0, "when to cancel the job; 0: never")
	every       = flag.Duration("every", 10*time.Millisecond, "time from one element of --case exact or stable to the next")
	each        = flag.Duration("each", 30*time.Second, "how long --case slow takes for an element")
	start       = flag.Int64("start", 0, "when the first element of --case exact is, in ms since 1970; 0: now")
	observed    = flag.String("observed", os.DevNull, "file that --case exact, evolve and stable add what they have to")
	variant     = flag.String("variant", "first", "which --case evolve: first, renamed, dropped or text")
	verbose     = flag.Bool("verbose", false, "the SDK's messages on stderr")
	// The SDK sends all flags to the runner.
	_ = flag.String("checkpoint_interval", "", "time between checkpoints")
	_ = flag.String("restart_attempts", "", "restarts within the window")
	_ = flag.String("restart_window", "", "the window of restarts")
	_ = flag.String("restart_delay", "", "time before the first restart")
	_ = flag.String("restart_max_delay", "", "time before a restart at most")
	_ = flag.String("restore_from", "", "savepoint to begin with")
	_ = flag.String("runner", "", "lintel run says which")
	_ = flag.Bool("update", false, "whether it takes the place of the running job of its name")
	_ = flag.String("allow_dropped_state", "", "state that may be lost then")
	_ = flag.String("transform_name_mapping", "", "names of transforms before, and those they have now")
)

// others are pipelines that check more than a sum.
var others = map[string]func(beam.Scope){"endless": endless, "exact": exact, "evolve": evolve, "stable": stable}

// cases make the sum of digests of all elements, however they come by it.
var cases = map[string]func(beam.Scope) beam.PCollection{
	"group": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &digestGroup{}, beam.GroupByKey(s, elements(s)))
	},
	"iterable": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &digestIterable{}, beam.Impulse(s), beam.SideInput{Input: beam.DropKey(s, elements(s))})
	},
	"multimap": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &digestMultimap{Keys: *keys}, beam.Impulse(s), beam.SideInput{Input: elements(s)})
	},
	"failing": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &fail{How: *how}, elements(s))
	},
	"talking": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &talk{}, elements(s))
	},
	// Elements that wait for workers which take long for each.
	"slow": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &slow{Each: *each}, beam.Reshuffle(s, elements(s)))
	},
	// Its workers never answer.
	"hanging": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &hang{}, elements(s))
	},
	// A state cell of each key.
	"state": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &digestState{Bag: state.MakeBagState[[]byte]("bag")}, elements(s))
	},
	// Elements that go through a shuffle without being grouped.
	"reshuffle": func(s beam.Scope) beam.PCollection {
		return beam.ParDo(s, &digestElement{}, beam.Reshuffle(s, elements(s)))
	},
}

func main() {
	os.Args = workerArgs(os.Args)
	flag.Parse()
	beam.Init()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// workerArgs lets the program be the command of a PROCESS environment, as Beam's boot program
// is, but without files to retrieve: it has all that the pipeline needs.
func workerArgs(args []string) []string {
	if len(args) < 2 || !strings.HasPrefix(args[1], "--id=") {
		return args
	}
	known := slices.DeleteFunc(slices.Clone(args[1:]), func(a string) bool {
		return strings.HasPrefix(a, "--artifact_endpoint=") || strings.HasPrefix(a, "--provision_endpoint=")
	})
	return append([]string{args[0], "--worker=true"}, known...)
}

func run(ctx context.Context) error {
	build, other := cases[*caseName], others[*caseName]
	if build == nil && other == nil {
		return fmt.Errorf("--case %q: want one of %v or %v", *caseName, slices.Sorted(maps.Keys(others)), slices.Sorted(maps.Keys(cases)))
	}
	if *value < 8 {
		return fmt.Errorf("--value %d: want at least 8", *value)
	}
	if !*verbose {
		beamlog.SetLogger(silent{})
	}
	p, s := beam.NewPipelineWithRoot()
	if other != nil {
		other(s)
		if *caseName == "stable" {
			return submitStable(ctx, p)
		}
		_, err := beam.Run(ctx, "universal", p)
		return err
	}
	var want int64
	for i := range *n {
		want += mix(i)
	}
	beam.ParDo0(s, &check{Want: want}, beam.GroupByKey(s, beam.AddFixedKey(s, build(s))))
	if *cancelAfter == 0 {
		_, err := beam.Run(ctx, "universal", p)
		return err
	}
	*jobopts.JobName = fmt.Sprintf("cancelled-%d", os.Getpid())
	endpoint, err := jobopts.GetEndpoint()
	if err != nil {
		return err
	}
	cancelled := make(chan error, 1)
	go func() { cancelled <- cancelLater(ctx, endpoint, *jobopts.JobName, *cancelAfter) }()
	// The SDK has an error for a job that is cancelled while it submits it, later none.
	if _, err := beam.Run(ctx, "universal", p); err != nil && *verbose {
		log.Print(err)
	}
	return <-cancelled
}

// elements are n KVs of a key and a value that does not compress and begins with the element's number.
func elements(s beam.Scope) beam.PCollection {
	var parts beam.PCollection
	if *stream {
		start := time.Now().Truncate(time.Millisecond)
		ticks := periodic.Impulse(s, start, start.Add(time.Duration(*shards)*time.Millisecond), time.Millisecond, false)
		parts = beam.Reshuffle(s, beam.ParDo(s, &partOf{Start: start.UnixMilli(), Shards: *shards}, ticks))
	} else {
		parts = beam.Reshuffle(s, beam.ParDo(s, &part{Shards: *shards}, beam.Impulse(s)))
	}
	return beam.ParDo(s, &generate{N: *n, Shards: *shards, Keys: *keys, Value: *value}, parts)
}

type silent struct{}

func (silent) Log(_ context.Context, sev beamlog.Severity, _ int, text string) {
	if sev >= beamlog.SevError {
		log.Print(text)
	}
}

func register2[A, B any](f interface{ ProcessElement(A, B) }) {
	beam.RegisterDoFn(f)
	reflectx.RegisterFunc(typeOf(f.ProcessElement), func(fn any) reflectx.Func { return call2[A, B](fn.(func(A, B))) })
}

func init() {
	register2[[]byte, func(int64)](&part{})
	beam.RegisterDoFn(&partOf{})
	register2[int64, func(int64, []byte)](&generate{})
	beam.RegisterDoFn(&digestGroup{})
	beam.RegisterDoFn(&digestIterable{})
	beam.RegisterDoFn(&digestMultimap{})
	beam.RegisterDoFn(&digestElement{})
	beam.RegisterDoFn(&digestState{})
	beam.RegisterDoFn(&fail{})
	beam.RegisterDoFn(&slow{})
	beam.RegisterDoFn(&hang{})
	beam.RegisterDoFn(&talk{})
	beam.RegisterDoFn(&check{})
	register.Emitter1[int64]()
	register.Emitter2[int64, []byte]()
	register.Iter1[[]byte]()
	register.Iter1[int64]()
}
