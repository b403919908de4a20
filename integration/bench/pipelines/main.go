// Command bench runs one benchmark pipeline on a Beam runner's job endpoint and prints one JSON line.
//
//	bench --pipeline=gbk --n=1000000 --runner=universal --endpoint=127.0.0.1:8073 --environment_type=LOOPBACK
//	bench --pipeline=gbk --n=1000000 --plain      the same in plain Go, no Beam
//	bench --list
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	beamlog "github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

var (
	fPipe       = flag.String("pipeline", "", "which pipeline")
	fList       = flag.Bool("list", false, "list the pipelines")
	fPlain      = flag.Bool("plain", false, "plain Go, no Beam")
	fCheck      = flag.Bool("check", true, "compare with the plain answer")
	fN          = flag.Int64("n", 100_000, "elements")
	fK          = flag.Int64("k", 1000, "keys")
	fV          = flag.Int64("v", 100, "bytes per value")
	fM          = flag.Int64("m", 10_000, "side input's size")
	fR          = flag.Int64("r", 16, "sdf: restrictions")
	fMB         = flag.Float64("mb", 10, "wordcount: megabytes of text")
	fShards     = flag.Int("shards", 4, "source shards")
	fSecs       = flag.Int64("evsecs", 600, "fixed, timers: span of event time, s")
	fRate       = flag.Int64("rate", 1000, "stream: events/s")
	fSecsStream = flag.Int64("secs", 10, "stream: seconds")
	fPoll       = flag.Int64("poll", 10, "stream: self-checkpoint for this many ms")
	fDir        = flag.String("data", "data", "where generated files go")
	fVerbose    = flag.Bool("verbose", false, "SDK and runner messages on stderr")
	fRunner     = flag.String("runner", "universal", "universal (a job endpoint) or direct")
	// The SDK sends all flags that are given to the runner.
	_      = flag.String("checkpoint_interval", "", "time between checkpoints")
	fGCPct = flag.Int("sdkgc", 400, "GOGC of this process (the SDK harness)")
)

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func round(x float64) float64 { return math.Round(x*10000) / 10000 }

func main() {
	flag.Parse()
	debug.SetGCPercent(*fGCPct)
	if ceiling() {
		return
	}
	all := basicBenches()
	maps.Copy(all, streamBenches())
	maps.Copy(all, nexmarkBenches())
	if *fList {
		for _, k := range slices.Sorted(maps.Keys(all)) {
			fmt.Println(k)
		}
		return
	}
	b, ok := all[*fPipe]
	if !ok {
		log.Fatalf("no pipeline %q", *fPipe)
	}
	if !*fVerbose {
		beamlog.SetLogger(quiet{})
		log.SetOutput(io.Discard)
	}
	beam.Init()
	if strings.HasPrefix(*fPipe, "wordcount") {
		textFile(*fMB)
	}
	out := map[string]any{"pipeline": *fPipe}
	var want result
	if *fPlain {
		t := time.Now()
		c := cpu()
		want = b.plain()
		sec := time.Since(t).Seconds()
		n := b.n()
		out["runner"], out["n"], out["seconds"], out["cpu_s"] = "plain-go", n, round(sec), round(cpu()-c)
		out["elements_per_s"] = math.Round(float64(n) / sec)
		out["checksum"], out["out"], out["ok"] = fmt.Sprintf("%016x", want.Sum), want.N, true
		pr(out)
		return
	}
	if *fCheck {
		want = b.plain()
		debug.FreeOSMemory()
	}
	n := b.n()
	p, s := beam.NewPipelineWithRoot()
	b.build(s)
	c0, t0 := cpu(), time.Now()
	err := runIt(p)
	sec := time.Since(t0).Seconds()
	out["n"], out["seconds"], out["sdk_cpu_s"] = n, round(sec), round(cpu()-c0)
	out["elements_per_s"] = math.Round(float64(n) / sec)
	got := result{gN.Load(), gSum.Load()}
	out["checksum"], out["out"] = fmt.Sprintf("%016x", got.Sum), got.N
	if f := gFirst.Load(); f != 0 {
		out["to_first_s"] = round(float64(f-t0.UnixNano()) / 1e9)
		if l := gLast.Load(); l != 0 {
			out["to_last_s"] = round(float64(l-t0.UnixNano()) / 1e9)
		}
	}
	if len(lat.v) > 0 {
		out["lat_n"], out["p50_ms"], out["p90_ms"], out["p99_ms"], out["max_ms"] = len(lat.v), pct(lat.v, .5), pct(lat.v, .9), pct(lat.v, .99), pct(lat.v, 1)
	}
	okk := err == nil
	if err != nil {
		e := err.Error()
		if len(e) > 600 {
			e = e[:300] + " ... " + e[len(e)-300:]
		}
		out["error"] = e
	}
	if *fCheck && got != want {
		okk = false
		if err == nil {
			out["error"] = fmt.Sprintf("wrong answer: got %d/%016x, want %d/%016x", got.N, got.Sum, want.N, want.Sum)
		}
	}
	out["ok"] = okk
	pr(out)
	if !okk {
		os.Exit(1)
	}
}

func runIt(p *beam.Pipeline) error {
	_, err := beam.Run(context.Background(), *fRunner, p)
	return err
}

func pr(m map[string]any) {
	b, _ := json.Marshal(m)
	fmt.Println(string(b))
}

type quiet struct{}

func (quiet) Log(ctx context.Context, sev beamlog.Severity, _ int, msg string) {}
