package dev

import "syscall"

// ownGroup puts a child into a process group of its own, so that Ctrl-C reaches it through newsvc dev alone, and lets
// the kernel end it should newsvc dev be killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
