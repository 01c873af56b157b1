package client_test

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// clientSocket finds the socket of this process that is connected to addr.
func clientSocket(t *testing.T, addr string) int {
	t.Helper()
	want := netip.MustParseAddrPort(addr)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		peer, err := unix.Getpeername(fd)
		if err != nil {
			continue
		}
		if p, ok := peer.(*unix.SockaddrInet4); ok && netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)) == want {
			return fd
		}
	}
	t.Fatalf("no socket is connected to %s", addr)
	return -1
}

func TestDeadPeersAreFoundByTCP(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	connect(t, newRegistry(s.addr), nil)
	fd := clientSocket(t, s.addr)
	for name, o := range map[string]struct{ level, option, want int }{
		"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 10},
		"TCP_KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 3},
		"TCP_KEEPCNT":      {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 20_000},
	} {
		if got, err := unix.GetsockoptInt(fd, o.level, o.option); err != nil || got != o.want {
			t.Errorf("%s = %d, %v; want %d", name, got, err, o.want)
		}
	}
}
