package cli

// NewRoot and Wrap are what tests look at besides whole command lines.
var (
	NewRoot = newRoot
	Wrap    = wrap
)
