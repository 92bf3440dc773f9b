package main

import (
	"math"
	"slices"
	"time"
)

// spread is the middle and the ends of a few measurements.
type spread struct {
	median, min, max float64
	n                int
}

// spreadOf sums up values; the zero spread stands for none.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Clone(values)
	slices.Sort(s)
	return spread{median: medianSorted(s), min: s[0], max: s[len(s)-1], n: len(s)}
}

// medianSorted is the middle value, or the mean of the two in the middle.
func medianSorted(s []float64) float64 {
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// percentile is the smallest measured value that at least p per cent (0 < p <= 100) of all values do not exceed
// (nearest rank, no interpolation: every printed latency has really occurred). It sorts values in place.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	rank := int(math.Ceil(p / 100 * float64(len(values))))
	return values[min(max(rank, 1), len(values))-1]
}

// ratios divides a by b round by round, as far as both go.
func ratios(a, b []float64) []float64 {
	out := make([]float64, 0, min(len(a), len(b)))
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}
