// Package stats sums up measurements.
package stats

import "slices"

// Median is that of an even list between the two in the middle, and 0 of none.
func Median(list []float64) float64 { return Quantile(list, 0.5) }

// Quantile is interpolated, and 0 of an empty list. It leaves the list as it is.
func Quantile(list []float64, q float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	pos := q * float64(len(sorted)-1)
	low := int(pos)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (pos-float64(low))*(sorted[low+1]-sorted[low])
}

// Ratio is the median of the ratios of what was measured in the same round.
func Ratio(ours, theirs []float64) float64 {
	var list []float64
	for n := range min(len(ours), len(theirs)) {
		list = append(list, ours[n]/theirs[n])
	}
	return Median(list)
}
