package metrics

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
)

// merge adds two payloads of a type of metrics.proto (MonitoringInfoTypeUrns).
func merge(urn string, a, b []byte) ([]byte, error) {
	switch urn {
	case urns.MetricTypeSumInt64:
		return mergeVarints(a, b, func(x, y [4]int64) [4]int64 { return [4]int64{x[0] + y[0]} }, 1)
	case urns.MetricTypeSumDouble:
		return mergeDoubles(a, b)
	case urns.MetricTypeDistributionInt64:
		return mergeVarints(a, b, mergeDistributions, 4)
	case urns.MetricTypeDistributionDouble:
		return mergeDoubleDistributions(a, b)
	case urns.MetricTypeLatestInt64, urns.MetricTypeLatestDouble:
		return latest(a, b)
	case urns.MetricTypeSetString:
		return mergeSets(a, b)
	case urns.MetricTypeTopNInt64, urns.MetricTypeTopNDouble, urns.MetricTypeBottomNInt64, urns.MetricTypeBottomNDouble:
		return mergeRanked(urn, a, b)
	case urns.MetricTypeBoundedTrie:
		return mergeTries(a, b)
	case urns.MetricTypeHistogramInt64:
		return mergeHistograms(a, b)
	}
	return nil, fault.New(fault.Unsupported, "metric type %q", urn)
}

// mergeDistributions: count, sum, min and max. What the last two are where
// nothing was counted differs between SDKs.
func mergeDistributions(x, y [4]int64) [4]int64 {
	switch {
	case x[0] == 0:
		return y
	case y[0] == 0:
		return x
	}
	return [4]int64{x[0] + y[0], x[1] + y[1], min(x[2], y[2]), max(x[3], y[3])}
}

var errPayload = fault.New(fault.Corruption, "metric payload of the wrong form")

// varints reads the n varints that b begins with, up to four.
func varints(b []byte, n int) (out [4]int64, err error) {
	for i := range out[:n] {
		v, k, err := coders.Varint(b)
		if err != nil {
			return out, err
		}
		out[i], b = v, b[k:]
	}
	return out, nil
}

func mergeVarints(a, b []byte, add func(x, y [4]int64) [4]int64, n int) ([]byte, error) {
	x, err := varints(a, n)
	if err != nil {
		return nil, err
	}
	y, err := varints(b, n)
	if err != nil {
		return nil, err
	}
	sum := add(x, y)
	out := make([]byte, 0, 24)
	for _, v := range sum[:n] {
		out = coders.AppendVarint(out, v)
	}
	return out, nil
}

func double(b []byte) float64 { return math.Float64frombits(binary.BigEndian.Uint64(b)) }

func appendDouble(b []byte, v float64) []byte {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(v))
}

func mergeDoubles(a, b []byte) ([]byte, error) {
	if len(a) != 8 || len(b) != 8 {
		return nil, errPayload
	}
	return appendDouble(nil, double(a)+double(b)), nil
}

// mergeDoubleDistributions: as mergeDistributions, but sum, min and max are doubles.
func mergeDoubleDistributions(a, b []byte) ([]byte, error) {
	n, i, err := coders.Varint(a)
	if err != nil {
		return nil, err
	}
	m, j, err := coders.Varint(b)
	if err != nil {
		return nil, err
	}
	switch {
	case len(a)-i != 24 || len(b)-j != 24:
		return nil, errPayload
	case n == 0:
		return b, nil
	case m == 0:
		return a, nil
	}
	a, b = a[i:], b[j:]
	out := coders.AppendVarint(nil, n+m)
	out = appendDouble(out, double(a)+double(b))
	out = appendDouble(out, min(double(a[8:]), double(b[8:])))
	return appendDouble(out, max(double(a[16:]), double(b[16:]))), nil
}

// latest: a timestamp as a varint, then the value. The later wins.
func latest(a, b []byte) ([]byte, error) {
	x, _, err := coders.Varint(a)
	if err != nil {
		return nil, err
	}
	y, _, err := coders.Varint(b)
	if err != nil {
		return nil, err
	}
	if x > y {
		return a, nil
	}
	return b, nil
}

// items cuts an iterable whose items skip measures.
func items(b []byte, skip func([]byte) (int, error)) ([]string, error) {
	if len(b) < 4 {
		return nil, errPayload
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	if n < 0 || int(n) > len(b) {
		return nil, errPayload
	}
	out := make([]string, n)
	for i := range out {
		k, err := skip(b)
		if err != nil || k > len(b) {
			return nil, errPayload
		}
		out[i], b = string(b[:k]), b[k:]
	}
	return out, nil
}

func appendItems(list []string) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(list)))
	for _, s := range list {
		out = append(out, s...)
	}
	return out
}

func skipVarint(b []byte) (int, error) {
	_, n, err := coders.Varint(b)
	return n, err
}

func skipString(b []byte) (int, error) {
	n, k, err := coders.Varint(b)
	if err != nil || n < 0 || n > int64(len(b)) {
		return 0, errPayload
	}
	return k + int(n), nil
}

func skipDouble([]byte) (int, error) { return 8, nil }

// mergeSets: an iterable of strings.
func mergeSets(a, b []byte) ([]byte, error) {
	x, err := items(a, skipString)
	if err != nil {
		return nil, err
	}
	y, err := items(b, skipString)
	if err != nil {
		return nil, err
	}
	all := append(x, y...)
	slices.Sort(all)
	return appendItems(slices.Compact(all)), nil
}

// mergeRanked: an iterable of numbers. How many the user asked for is not said;
// the longer of both lists is at most that.
func mergeRanked(urn string, a, b []byte) ([]byte, error) {
	skip, compare := skipVarint, compareVarints
	if urn == urns.MetricTypeTopNDouble || urn == urns.MetricTypeBottomNDouble {
		skip, compare = skipDouble, compareDoubles
	}
	x, err := items(a, skip)
	if err != nil {
		return nil, err
	}
	y, err := items(b, skip)
	if err != nil {
		return nil, err
	}
	n := max(len(x), len(y))
	all := append(x, y...)
	if urn == urns.MetricTypeTopNInt64 || urn == urns.MetricTypeTopNDouble {
		slices.SortFunc(all, func(p, q string) int { return compare(q, p) })
	} else {
		slices.SortFunc(all, compare)
	}
	return appendItems(all[:n]), nil
}

func compareVarints(p, q string) int {
	x, _, _ := coders.Varint([]byte(p)) // items has walked both
	y, _, _ := coders.Varint([]byte(q))
	return cmp.Compare(x, y)
}

func compareDoubles(p, q string) int { return cmp.Compare(double([]byte(p)), double([]byte(q))) }
