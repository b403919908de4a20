package engine

import "time"

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
	// Target is how long a bundle should take (default 200 ms).
	Target time.Duration
}

type sizer struct {
	limits   Limits
	elements int
}

func newSizer(l Limits) sizer {
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
	}
	return sizer{limits: l, elements: min(l.First, l.Elements)}
}

// observe moves the limit by what a bundle took: up by a factor of at most four,
// and only if the bundle was full; down to half of what took too long.
func (s *sizer) observe(b *Bundle, took time.Duration, outputBytes int) {
	n := b.Elements + len(b.Timers)
	switch {
	case took > s.limits.Target || outputBytes > s.limits.OutputBytes:
		s.elements = max(1, min(s.elements, n)/2)
	case n >= s.elements && took < s.limits.Target/4 && outputBytes < s.limits.OutputBytes/4:
		s.elements = min(s.limits.Elements, s.elements*4)
	case n >= s.elements && took < s.limits.Target/2 && outputBytes < s.limits.OutputBytes/2:
		s.elements = min(s.limits.Elements, s.elements*3/2+1)
	}
}
