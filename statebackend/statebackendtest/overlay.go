package statebackendtest

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/statebackend"
)

// testOverlay makes changes to an overlay over a snapshot and to a map: after each they
// read alike, and once the overlay's batch is committed the store does.
func testOverlay(t *testing.T, b statebackend.Backend) {
	checkOverlay(t, b, drawKey)
}

// testOverlayOfFew does so with few keys, which meet all the time.
func testOverlayOfFew(t *testing.T, b statebackend.Backend) {
	checkOverlay(t, b, func(t *rapid.T, name string) []byte {
		return rapid.SliceOfN(rapid.SampledFrom([]byte("ab")), 1, 2).Draw(t, name)
	})
}

func checkOverlay(t *testing.T, b statebackend.Backend, drawKey func(*rapid.T, string) []byte) {
	rounds := 0
	rapid.Check(t, func(t *rapid.T) {
		rounds++
		s, closeStore := openStore(t, b, strconv.Itoa(rounds))
		m := model{}
		pinned := snapshot(t, s)
		o := statebackend.NewOverlay(pinned)
		changed := m.clone() // as o shows it
		defer func() {
			closeSnapshot(t, pinned)
			closeStore()
		}()
		reset := func() {
			closeSnapshot(t, pinned)
			pinned = snapshot(t, s)
			o.Reset(pinned)
			changed = m.clone()
		}
		kept := map[string][2][]byte{} // values read, and copies of them
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				for range rapid.IntRange(1, 30).Draw(t, "changes") {
					var batch statebackend.Batch
					drawChange(t, drawKey, o, &batch)
					changed.commit(&batch)
				}
			},
			"get": func(t *rapid.T) {
				key := drawKey(t, "key")
				if d := changed.differenceAt(o, key); d != "" {
					t.Fatal(d)
				}
				v, _ := o.Get(key)
				kept[string(key)] = [2][]byte{v, append([]byte(nil), v...)}
			},
			"scan": func(t *rapid.T) {
				from, to := drawRange(t, drawKey)
				if d := changed.difference(o, from, to, rapid.IntRange(1, 50).Draw(t, "limit")); d != "" {
					t.Fatal(d)
				}
			},
			"commit": func(t *rapid.T) {
				commit(t, s, o.Batch())
				m = changed.clone()
				expect(t, s, m)
				clear(kept)
				reset()
			},
			"drop": func(*rapid.T) { clear(kept); reset() },
			"": func(t *rapid.T) {
				if d := changed.difference(o, nil, nil, all); d != "" {
					t.Fatal(d)
				}
				for key, v := range kept {
					if string(v[0]) != string(v[1]) {
						t.Fatalf("the value of %q was %q when it was read and is %q now", key, v[1], v[0])
					}
				}
				expect(t, s, m)
			},
		})
	})
}
