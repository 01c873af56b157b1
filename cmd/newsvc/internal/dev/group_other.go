//go:build unix && !linux

package dev

import "syscall"

// ownGroup puts a child into a process group of its own, so that Ctrl-C reaches it through newsvc dev alone.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
