package faulttest //nolint:testpackage // what export_test.go is, where the system tells

// AllStopped tells whether each thread of a process stands still.
func AllStopped(pid int) (bool, error) { return allStopped(pid) }
