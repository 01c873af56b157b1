//go:build unix

package dev

import "syscall"

// drain asks a process to finish its work and end. It may be gone by now, and that is what we want.
func drain(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }

// drainGroup asks a process and all that it has started.
func drainGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGTERM) }

// killGroup ends a child with all that it started; often nothing is left of it.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// shell is how a command line of newsvc.yaml is run.
func shell(line string) (path string, args []string) { return "/bin/sh", []string{"-c", line} }

// exe is how names of programs end.
const exe = ""
