package engine

import (
	"testing"

	"pgregory.net/rapid"
)

// However things of several channels come, each channel's stay in order, none is lost, and between those
// before a barrier and those behind it the task is at one moment. Epochs that no channel delivers, since all
// have ended before, come when they are announced.
func TestSnapshotsAreOfOneMoment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 4).Draw(t, "channels")
		epochs := uint64(rapid.IntRange(0, 3).Draw(t, "epochs"))
		// A channel is things, numbered from 1, and barriers, negative; it ends after its last thing.
		channels := make([][]int, n)
		last := make([]int, n)
		for i := range channels {
			stops := epochs
			if rapid.Bool().Draw(t, "ends early") {
				stops = uint64(rapid.IntRange(0, int(epochs)).Draw(t, "barriers"))
			}
			for e := range stops + 1 {
				for range rapid.IntRange(0, 3).Draw(t, "things") {
					last[i]++
					channels[i] = append(channels[i], last[i])
				}
				if e < stops {
					channels[i] = append(channels[i], -int(e+1))
				}
			}
			last[i]++
			channels[i] = append(channels[i], last[i])
		}

		all := append([][]int(nil), channels...)
		a := NewAligner[int](n)
		had, snapshots := make([]int, n), uint64(0)
		deliver := func(channel, thing int) {
			if thing != had[channel]+1 {
				t.Fatalf("channel %d: %d after %d", channel, thing, had[channel])
			}
			had[channel] = thing
		}
		look := func() {
			for {
				epoch, ok := a.Aligned()
				if !ok {
					return
				}
				if snapshots++; epoch != snapshots {
					t.Fatalf("epoch %d after %d", epoch, snapshots-1)
				}
				for i := range channels {
					if want := before(all[i], epoch); had[i] != want {
						t.Fatalf("epoch %d: channel %d had %d things, not %d", epoch, i, had[i], want)
					}
				}
				for {
					channel, thing, ok := a.Next()
					if !ok {
						break
					}
					deliver(channel, thing)
				}
			}
		}

		announced := uint64(0)
		for left := n; left > 0 || announced < epochs; {
			i := rapid.IntRange(-1, n-1).Draw(t, "channel, or announcement")
			if i < 0 {
				if announced < epochs {
					announced++
					a.Announce(announced)
					look()
				}
				continue
			}
			if len(channels[i]) == 0 {
				continue
			}
			thing := channels[i][0]
			if channels[i] = channels[i][1:]; len(channels[i]) == 0 {
				left--
			}
			if thing < 0 {
				a.Barrier(i, uint64(-thing))
			} else if a.Take(i, thing, thing == last[i]) {
				deliver(i, thing)
			}
			look()
		}
		for i := range had {
			if had[i] != last[i] {
				t.Errorf("channel %d: %d of %d", i, had[i], last[i])
			}
		}
		if snapshots != epochs || a.Waiting() != 0 {
			t.Errorf("%d snapshots of %d, %d things wait", snapshots, epochs, a.Waiting())
		}
	})
}

// before returns the last thing of a channel before the barrier of an epoch, or of all.
func before(channel []int, epoch uint64) (last int) {
	for _, thing := range channel {
		if thing == -int(epoch) {
			break
		}
		if thing > 0 {
			last = thing
		}
	}
	return last
}
