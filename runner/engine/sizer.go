package engine

import (
	"math"
	"time"
)

// Limits of a bundle. Bundles size themselves between First and the maxima, so
// that one takes about Target: expensive elements travel in small bundles,
// cheap ones in large ones, and no bundle waits for elements.
type Limits struct {
	// First is the number of elements that the first bundles may have (default 1,000).
	First int
	// Elements is the most that any bundle may have (default 1,000,000).
	Elements int
	// Bytes of input, what it refers to included, after which a bundle takes no further
	// frame (default 16 MiB).
	Bytes int
	// OutputBytes of staged output that a bundle should not exceed (default 32 MiB).
	OutputBytes int
	// Target is how long a bundle should take (default 200 ms, or 1 s of bounded input).
	Target time.Duration
}

type sizer struct {
	limits   Limits
	elements int
}

// newSizer returns one for bounded input, or for input that somebody may wait for. What a bundle costs
// for itself, SDKs that write the state of each of its keys at its end included, is the less the longer
// bundles are; of bounded input they may be as long as one can do without what they have put out.
func newSizer(l Limits, bounded bool) sizer {
	if l.First == 0 {
		l.First = 1000
	}
	if l.Elements == 0 {
		l.Elements = 1_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 16 << 20
	}
	if l.OutputBytes == 0 {
		l.OutputBytes = 32 << 20
	}
	if l.Target == 0 {
		l.Target = 200 * time.Millisecond
		if bounded {
			l.Target = time.Second
		}
	}
	return sizer{limits: l, elements: min(l.First, l.Elements)}
}

// observe moves the limit towards what takes the target by what a bundle took: up by a factor of at
// most four, and only if the bundle was full; down by half at most, as what took long may have been
// the start of the harness or a busy machine.
func (s *sizer) observe(b *Bundle, took time.Duration, outputBytes int) {
	n := b.Elements + len(b.Timers)
	room := min(float64(s.limits.Target)/float64(took), float64(s.limits.OutputBytes)/float64(outputBytes))
	switch {
	case room < 1:
		s.elements = max(1, int(float64(min(s.elements, n))*max(room, 0.5)))
	case n >= s.elements:
		s.elements = min(s.limits.Elements, int(math.Round(float64(s.elements)*min(room, 4))))
	}
}
