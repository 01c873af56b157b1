//go:build unix

package dev

import (
	"errors"
	"syscall"
)

// drain asks a process to finish its work and end. It may be gone by now, and that is what we want.
func drain(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }

// killGroup ends a child with all that it started; often nothing is left of it.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// alive reports whether a process with that id exists; one of another user does.
func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
