package examples_test

import "syscall"

// dieWithTest lets the kernel end a process whose test was killed before it could clean up.
func dieWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
