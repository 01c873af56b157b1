package devtest_test

import "syscall"

// ownGroup keeps Ctrl-C in a terminal from newsvc dev, and has the kernel stop it when its test was killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
