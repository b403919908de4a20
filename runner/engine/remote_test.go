package engine

import (
	"testing"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

func TestBundlesAreLimitedByWhatTheyReferTo(t *testing.T) {
	task := NewTask(Config{
		Main: 1, InFlight: 10, Limits: Limits{First: 6, Bytes: 100},
		Cut: func(data []byte, n int) (int, error) { return n, nil },
	})
	for range 3 {
		task.Frame(frame.Frame{Data: make([]byte, 4), Elements: 4, Remote: 40}, task.ChannelWatermark())
	}
	task.Frame(frame.Frame{Data: make([]byte, 4), Elements: 4, Remote: 400}, task.ChannelWatermark())
	task.Frame(frame.Frame{Data: make([]byte, 4), Elements: 4, Remote: 400}, task.ChannelWatermark())
	r, err := task.Ready(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	type size struct {
		elements int
		remote   int64
	}
	var got []size
	for _, b := range r.Start {
		got = append(got, size{b.Elements, b.Remote})
	}
	want := []size{{6, 60}, {6, 60}, {4, 400}, {4, 400}}
	if len(got) != len(want) {
		t.Fatalf("bundles are %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("bundles are %v, want %v", got, want)
		}
	}
}
