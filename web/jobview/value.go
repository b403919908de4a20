package jobview

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Value is a decoded figure. It prints on one line for people and as plain JSON for scripts.
type Value interface{ fmt.Stringer }

// Int is a sum of whole numbers.
type Int int64

// Float is a real number. In JSON, which has no others, NaN and the infinities are strings.
type Float float64

// Distribution sums up many numbers; a whole-number distribution has whole fields.
type Distribution[N int64 | Float] struct {
	Count int64 `json:"count"`
	Sum   N     `json:"sum"`
	Min   N     `json:"min"`
	Max   N     `json:"max"`
}

// Latest is the youngest of several values.
type Latest[N int64 | Float] struct {
	Value N         `json:"value"`
	Time  time.Time `json:"time"`
}

// Numbers are the values of top_n, bottom_n and progress metrics.
type Numbers[N int64 | Float] []N

// Set is a set of strings, sorted.
type Set []string

// Trie is the set of paths in a bounded trie, sorted; a truncated path ends in "*".
type Trie [][]string

// Histogram counts values by bucket; what it left out are empty buckets.
type Histogram struct {
	Count   int64    `json:"count"`
	Buckets []Bucket `json:"buckets,omitempty"`
}

// Bucket counts the values of a histogram from Low up to, but without, High.
type Bucket struct {
	Low   Float `json:"low"`
	High  Float `json:"high"`
	Count int64 `json:"count"`
}

// Undecoded is a payload that we can't read, with the reason.
type Undecoded struct {
	Reason  string `json:"reason"`
	Payload []byte `json:"payload"`
}

func (v Int) String() string { return strconv.FormatInt(int64(v), 10) }

// String prints six significant digits.
func (v Float) String() string { return strconv.FormatFloat(float64(v), 'g', 6, 64) }

// MarshalJSON implements json.Marshaler.
func (v Float) MarshalJSON() ([]byte, error) {
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		return json.Marshal(strconv.FormatFloat(f, 'g', -1, 64))
	}
	return json.Marshal(float64(v))
}

// Mean is Sum / Count, 0 for nothing.
func (v Distribution[N]) Mean() float64 {
	if v.Count == 0 {
		return 0
	}
	return float64(v.Sum) / float64(v.Count)
}

func (v Distribution[N]) String() string {
	if v.Count == 0 {
		return "count 0"
	}
	return fmt.Sprintf("count %d, sum %v, min %v, max %v, mean %v",
		v.Count, v.Sum, v.Min, v.Max, Float(v.Mean()))
}

func (v Latest[N]) String() string {
	return fmt.Sprintf("%v at %s", v.Value, v.Time.Format(time.RFC3339))
}

func (v Numbers[N]) String() string {
	parts := make([]string, len(v))
	for i, n := range v {
		parts[i] = fmt.Sprint(n)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (v Set) String() string {
	return "{" + strings.Join(slices.Sorted(slices.Values(v)), ", ") + "}"
}

func (v Trie) String() string {
	parts := make([]string, len(v))
	for i, path := range v {
		parts[i] = strings.Join(path, "")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func (v Histogram) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "count %d", v.Count)
	for _, k := range v.Buckets {
		fmt.Fprintf(&b, ", [%s, %s) %d", k.Low, k.High, k.Count)
	}
	return b.String()
}

func (v Undecoded) String() string { return "undecodable: " + v.Reason }
