package faulttest

import "syscall"

// dieWithParent lets the kernel end the process when the one that holds the lab was killed.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
