package config

import "strings"

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
		d := distance(want, fold(c))
		if d > max(1, min(len(want), len(c))/3) {
			continue
		}
		if best == "" || d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// distance counts insertions, deletions, replacements and swaps of neighbours that make b of a.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(x)][len(y)]
}
