//go:build unix

package faulttest

import "syscall"

func freeze(p *Process) error { return p.Signal(syscall.SIGSTOP) }

func thaw(p *Process) error { return p.Signal(syscall.SIGCONT) }
