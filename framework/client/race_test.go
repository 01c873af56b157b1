//go:build race

package client_test

// underRace says that tests compute more than they wait.
const underRace = true
