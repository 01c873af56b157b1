package config

import (
	"strings"

	near "github.com/newsvc/newsvc/framework/internal/nearest"
)

// nearest returns the candidate that a person most likely meant, or "" when none is close. Case and the difference
// between "-" and "_" count little.
func nearest(name string, candidates []string) string {
	best, bestDist := "", 0
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	want := fold(name)
	if len(want) > 200 {
		return ""
	}
	for _, c := range candidates {
		d := near.Distance(want, fold(c))
		if d > max(1, min(len(want), len(c))/3) {
			continue
		}
		if best == "" || d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}
