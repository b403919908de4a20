package windowing

import (
	"math"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

func TestFiredBy(t *testing.T) {
	count := func(n int32) *pipepb.Trigger {
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: n}}}
	}
	clock := &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{}}
	never := &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{}}
	repeat := func(s *pipepb.Trigger) *pipepb.Trigger {
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: s}}}
	}
	several := func(s ...*pipepb.Trigger) (each, every, either *pipepb.Trigger) {
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEach_{AfterEach: &pipepb.Trigger_AfterEach{Subtriggers: s}}},
			&pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAll_{AfterAll: &pipepb.Trigger_AfterAll{Subtriggers: s}}},
			&pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAny_{AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: s}}}
	}
	each, every, either := several(clock, always)
	orFinally := &pipepb.Trigger{Trigger: &pipepb.Trigger_OrFinally_{OrFinally: &pipepb.Trigger_OrFinally{Main: clock, Finally: count(1)}}}
	const end, lateness = 1000, 50
	for name, test := range map[string]struct {
		trigger *pipepb.Trigger
		want    int64
	}{
		"default":            {defaultTrigger, end},
		"always":             {always, end},
		"after end":          {afterEnd(clock, clock), end},
		"one element":        {repeat(count(1)), end},
		"three elements":     {repeat(count(3)), end + lateness},
		"processing time":    {repeat(clock), end + lateness},
		"never":              {never, end + lateness},
		"each of two":        {each, end + lateness},
		"all of two":         {every, end + lateness},
		"any of two":         {either, end},
		"or finally the one": {orFinally, end},
	} {
		s := &Strategy{Trigger: test.trigger, AllowedLateness: lateness}
		if got := s.FiredBy(end); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	s := &Strategy{Trigger: never, AllowedLateness: math.MaxInt64 - 1}
	if got := s.FiredBy(end); got != math.MaxInt64 {
		t.Errorf("without end: %d", got)
	}
}
