// Package nearest finds what a person most likely meant who typed a word that is not known: a command, a flag, a method.
// It knows nothing of what the words stand for.
package nearest

import "strings"

// maxLength is the longest word that is looked at: the work grows with the product of two lengths.
const maxLength = 100

// Word returns the candidate that word is most likely a slip of, and "" when none is close. A third of the letters may
// differ; two neighbours in the wrong order count as one slip, and upper or lower case not at all.
func Word(word string, candidates []string) string {
	best, least := "", maxLength
	if word == "" || len(word) > maxLength {
		return ""
	}
	typed := strings.ToLower(word)
	for _, c := range candidates {
		if len(c) > maxLength {
			continue
		}
		d := distance([]rune(typed), []rune(strings.ToLower(c)))
		if limit := max(1, min(len(typed), len(c))/3); d <= limit && d < least {
			best, least = c, d
		}
	}
	return best
}

// distance counts the letters that have to be put in, left out, replaced or swapped with the next one.
func distance(a, b []rune) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			swap := 1
			if a[i-1] == b[j-1] {
				swap = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+swap)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
