//go:build !linux

package client

import "syscall"

// setUserTimeout does nothing: TCP_USER_TIMEOUT is Linux's. Elsewhere a connection with unacknowledged bytes lives
// until the system gives up by itself.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }
