package dev

import (
	"os"
	"syscall"
)

// ownGroup puts a child into a process group of its own, so that Ctrl-C reaches it through newsvc dev alone.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// drain ends a process at once: Windows has no signal that asks for it. Its registration ends with its lease.
func drain(pid int) { killGroup(pid) }

// drainGroup does the same.
func drainGroup(pid int) { killGroup(pid) }

// killGroup ends a process; what it started stays.
func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill() // it may be gone by now, and that is what we want
		_ = p.Release()
	}
}

// shell is how a command line of newsvc.yaml is run.
func shell(line string) (path string, args []string) { return "cmd", []string{"/C", line} }

// exe is how names of programs end.
const exe = ".exe"
