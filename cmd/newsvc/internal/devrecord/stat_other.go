//go:build !linux

package devrecord

func started(int) string { return "" }

// Stopped reports whether a process is stopped, by SIGSTOP or a debugger; this system does not say.
func Stopped(int) bool { return false }
