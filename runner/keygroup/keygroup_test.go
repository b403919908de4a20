package keygroup

import (
	"testing"

	"pgregory.net/rapid"
)

// The values are state format: a failure here means that old checkpoints are lost.
func TestHashAndGroupAreFixed(t *testing.T) {
	for _, c := range []struct {
		key   string
		hash  uint64
		group int
	}{
		{"", 0xef46db3751d8e999, 957},
		{"a", 0xd24ec4f1a98c6e5b, 841},
		{"abc", 0x44bc2cf5ad770999, 274},
	} {
		if h := Hash([]byte(c.key)); h != c.hash {
			t.Errorf("Hash(%q) = %#x, want %#x", c.key, h, c.hash)
		}
		if g := Of(c.hash, DefaultMax); g != c.group {
			t.Errorf("Of(%#x, %d) = %d, want %d", c.hash, DefaultMax, g, c.group)
		}
	}
}

func TestRangesAreCompleteDisjointAndContiguous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		max := rapid.IntRange(1, 1<<15).Draw(t, "max")
		tasks := rapid.IntRange(1, 300).Draw(t, "tasks")
		next, least, most := 0, max, 0
		for task := range tasks {
			from, to := Range(task, tasks, max)
			if from != next || to < from {
				t.Fatalf("task %d of %d owns [%d, %d), want it to begin at %d", task, tasks, from, to, next)
			}
			least, most = min(least, to-from), maxOf(most, to-from)
			for g := from; g < to; g++ {
				if owner := Task(g, tasks, max); owner != task {
					t.Fatalf("Task(%d) = %d, want %d", g, owner, task)
				}
			}
			next = to
		}
		if next != max {
			t.Fatalf("the ranges end at %d, want %d", next, max)
		}
		if most-least > 1 {
			t.Fatalf("range sizes are between %d and %d", least, most)
		}
	})
}

func TestGroupsFollowHashOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		max := rapid.IntRange(1, 1<<15).Draw(t, "max")
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		if a > b {
			a, b = b, a
		}
		ga, gb := Of(a, max), Of(b, max)
		if ga < 0 || gb >= max || ga > gb {
			t.Fatalf("groups %d and %d of hashes %#x <= %#x, max %d", ga, gb, a, b, max)
		}
	})
}

func maxOf(a, b int) int {
	if a > b {
		return a
	}
	return b
}
