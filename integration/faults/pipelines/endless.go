package main

import (
	"context"
	"strconv"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
)

func init() {
	register.Function3x2(tick)
	register.Function4x0(tock)
}

// Metrics of the endless pipeline: what came, what its windows had, and how many ms after a
// window's end that was.
var (
	events = beam.NewCounter("endless", "events")
	sums   = beam.NewCounter("endless", "sums")
	delay  = beam.NewDistribution("endless", "delay_ms")
)

// endless counts n events a second by key and window of a second, until it is stopped.
func endless(s beam.Scope) {
	second := time.Second
	ticks := periodic.Impulse(s, time.Now(), time.Now().Add(24*time.Hour), second/time.Duration(*n), false)
	keyed := beam.WindowInto(s, window.NewFixedWindows(second), beam.ParDo(s, tick, ticks))
	beam.ParDo0(s, tock, stats.SumPerKey(s, keyed))
}

func tick(ctx context.Context, at beam.EventTime, _ []byte) (string, int) {
	events.Inc(ctx, 1)
	return strconv.FormatInt(int64(at)%100, 10), 1
}

func tock(ctx context.Context, w beam.Window, _ string, sum int) {
	sums.Inc(ctx, int64(sum))
	delay.Update(ctx, time.Now().UnixMilli()-int64(w.MaxTimestamp()))
}
