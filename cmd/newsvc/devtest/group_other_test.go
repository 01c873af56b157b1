//go:build unix && !linux

package devtest_test

import "syscall"

// ownGroup keeps Ctrl-C in a terminal from newsvc dev.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
