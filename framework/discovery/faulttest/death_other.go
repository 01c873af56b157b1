//go:build !linux

package faulttest

import "syscall"

// dieWithParent leaves it to the end of standard input where the kernel offers nothing.
func dieWithParent() *syscall.SysProcAttr { return nil }
