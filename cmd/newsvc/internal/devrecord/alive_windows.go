package devrecord

import "os"

// Alive reports whether a process with that id runs.
func Alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	p, err := os.FindProcess(pid) // opens it
	if err != nil {
		return false
	}
	return p.Release() == nil
}
