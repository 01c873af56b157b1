package client

import (
	"context"
	"net"
	"time"
)

// How long a peer may be gone before its connection is known to be dead. TCP's own probes need nothing of the peer's
// HTTP/2, so they are safe toward every server.
const (
	probeIdle     = 10 * time.Second // quiet time before the first probe
	probeInterval = 3 * time.Second
	probeCount    = 3
	// userTimeout bounds how long sent bytes may stay unacknowledged; probes do not run while there are any.
	userTimeout = 20 * time.Second
)

// dialTCP is the default dialer: no proxy, and dead peers are found within about twenty seconds.
func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeIdle, Interval: probeInterval, Count: probeCount},
		Control:         setUserTimeout,
	}
	return d.DialContext(ctx, "tcp", addr)
}
