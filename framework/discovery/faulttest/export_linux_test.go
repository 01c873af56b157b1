package faulttest

// AllStopped tells whether each thread of a process stands still.
func AllStopped(pid int) (bool, error) { return allStopped(pid) }
