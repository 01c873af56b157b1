// Package nearest finds what a person most likely meant who wrote a name that is not there. It knows nothing of what the
// names stand for.
package nearest

import (
	"cmp"
	"slices"
	"strings"
)

// maxLength is the longest name that is looked at: the work grows with the product of two lengths.
const maxLength = 200

// Names returns those of the candidates that the name may be a slip of, the likeliest first, at most so many. Besides
// slips of the pen these are names that have one more or one less part at an end, parts being what dashes separate.
func Names(name string, candidates []string, most int) []string {
	type near struct {
		name string
		dist int
	}
	if len(name) > maxLength {
		return nil
	}
	var found []near
	for _, c := range candidates {
		if c == name || len(c) > maxLength {
			continue
		}
		mine, theirs := apart(name, c)
		limit := max(1, min(len(mine), len(theirs))/4)
		if abs(len(mine)-len(theirs)) <= limit {
			if d := Distance(mine, theirs); d <= limit {
				found = append(found, near{c, d})
				continue
			}
		}
		if extends(name, c) || extends(c, name) {
			found = append(found, near{c, maxLength})
		}
	}
	slices.SortFunc(found, func(a, b near) int { return cmp.Or(cmp.Compare(a.dist, b.dist), strings.Compare(a.name, b.name)) })
	var out []string
	for _, f := range found[:min(len(found), most)] {
		out = append(out, f.name)
	}
	return out
}

// apart takes off the last part where both have the same: that both end in "-service" does not make names alike.
func apart(a, b string) (string, string) {
	i, j := strings.LastIndexByte(a, '-'), strings.LastIndexByte(b, '-')
	if i > 0 && j > 0 && a[i:] == b[j:] {
		return a[:i], b[:j]
	}
	return a, b
}

// extends reports whether long is short with one part more at its beginning or end.
func extends(short, long string) bool {
	before, ok := strings.CutSuffix(long, "-"+short)
	if ok && !strings.Contains(before, "-") {
		return true
	}
	after, ok := strings.CutPrefix(long, short+"-")
	return ok && !strings.Contains(after, "-")
}

func abs(n int) int { return max(n, -n) }

// Distance counts insertions, deletions, replacements and swaps of neighbours that make b of a.
func Distance(a, b string) int {
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
