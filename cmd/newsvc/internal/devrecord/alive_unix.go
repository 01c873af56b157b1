//go:build unix

package devrecord

import (
	"errors"
	"syscall"
)

// Alive reports whether a process with that id runs; one of another user does, one that has ended and that nobody has asked
// about does not.
func Alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return (err == nil || errors.Is(err, syscall.EPERM)) && !ended(pid)
}
