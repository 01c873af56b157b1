//go:build !unix

package client_test

// serveAlone is for processes that can be stopped.
func serveAlone() int { return 1 }
