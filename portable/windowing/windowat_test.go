package windowing

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWindowAtIsTheEarliestThatHoldsTheTimestamp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Strategy{
			Kind:   rapid.SampledFrom([]Kind{Fixed, Sliding}).Draw(t, "kind"),
			Size:   rapid.Int64Range(1, 20).Draw(t, "size"),
			Period: rapid.Int64Range(1, 25).Draw(t, "period"),
			Offset: rapid.Int64Range(-30, 30).Draw(t, "offset"),
		}
		step := s.Period
		if s.Kind == Fixed {
			step = s.Size
		}
		at := rapid.Int64Range(-100, 100).Draw(t, "timestamp")
		var want *Interval
		for start := s.Offset - 200*step; start <= at; start += step {
			if want == nil && at < start+s.Size {
				want = &Interval{start, start + s.Size}
			}
		}
		b, ok := s.WindowAt(nil, at)
		if !ok {
			if want != nil {
				t.Fatalf("no window, not %v", *want)
			}
			return
		}
		got, _, err := DecodeInterval(b)
		if err != nil || want == nil || got != *want {
			t.Fatalf("%v, %v, not %v", got, err, want)
		}
	})
}

func TestWindowAtOfOthers(t *testing.T) {
	if b, ok := (&Strategy{Kind: Global}).WindowAt([]byte{1}, 5); !ok || len(b) != 1 {
		t.Errorf("the global window is %x, %t", b, ok)
	}
	for _, kind := range []Kind{Session, Custom} {
		if b, ok := (&Strategy{Kind: kind, Gap: 5}).WindowAt(nil, 5); ok {
			t.Errorf("the window of a %v function is %x", kind, b)
		}
	}
}
