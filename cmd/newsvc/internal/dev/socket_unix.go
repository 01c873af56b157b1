//go:build unix

package dev

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens a listening socket that processes can inherit; one that asks for a busy port gets another one.
// It is not made by File of the listener: starting a process would then make the socket a blocking one, for all that
// have it.
func listen(ctx context.Context, addr string) (f *os.File, where string, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		host, _, _ := net.SplitHostPort(addr) // it was one a moment ago
		l, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = l.Close() }() // the copy goes on listening
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, "", err
	}
	where = l.Addr().String()
	var fd int
	var dupErr error
	err = raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), where), where, nil
}
