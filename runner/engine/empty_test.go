package engine

import (
	"testing"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// Bundles are of groups that have values or of such as have none, also where they are cut or split.
func TestEmptyGroupsShareBundlesOnlyWithTheirLike(t *testing.T) {
	task := NewTask(Config{
		Main: 1, InFlight: 10, Limits: Limits{First: 6},
		Cut: func(data []byte, n int) (int, error) { return n, nil },
	})
	for _, f := range []frame.Frame{
		{Elements: 4}, {Elements: 3}, {Elements: 2, Empty: true}, {Elements: 9, Empty: true}, {Elements: 1},
	} {
		f.Data = make([]byte, f.Elements)
		task.Frame(f, task.ChannelWatermark())
	}
	now := time.Time{}
	type bundle struct {
		elements int
		empty    bool
	}
	check := func(want ...bundle) []*Bundle {
		t.Helper()
		r, err := task.Ready(now)
		if err != nil {
			t.Fatal(err)
		}
		var got []bundle
		for _, b := range r.Start {
			got = append(got, bundle{b.Elements, b.Empty()})
			for _, f := range b.Frames {
				if f.Empty != b.Empty() {
					t.Errorf("a frame of %d elements is in a bundle of others", f.Elements)
				}
			}
		}
		if len(got) != len(want) {
			t.Fatalf("bundles are %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("bundles are %v, want %v", got, want)
			}
		}
		return r.Start
	}
	started := check(bundle{6, false}, bundle{1, false}, bundle{6, true}, bundle{5, true}, bundle{1, false})
	if err := task.Split(started[2].ID, Split{LastPrimary: 3, FirstResidual: 4}, now); err != nil {
		t.Fatal(err)
	}
	check(bundle{2, true})
}
