package auth

import (
	"fmt"
	"slices"
)

// Remembered is how many verified tokens are remembered.
func Remembered(a *Auth) int { return a.verifier.cache.size() }

// Callers returns the values that the label "caller" takes for 150 services, in order and each once.
func Callers() []string {
	c := newCallers()
	var values []string
	for i := range 150 {
		if v := c.of(fmt.Sprintf("service-%d", i)).name; !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}
