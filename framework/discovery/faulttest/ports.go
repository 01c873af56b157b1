package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports that are kept while nobody listens on them lie below those that systems give away by themselves, and below those of
// freeport, which does not look at signs.
const (
	lowestPort  = 12000
	highestPort = 24000
)

// freePort chooses a host:port on which nobody listens, and which no lab on this machine chooses while this one is open.
func (lab *Lab) freePort(ctx context.Context) (string, error) {
	var last error
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowestPort+rand.IntN(highestPort-lowestPort)))
		if last = lab.take(ctx, addr); last == nil {
			return addr, nil
		}
	}
	return "", fmt.Errorf("find a free port: %w", last)
}

// take keeps the UDP port of that number until the lab is closed. That is the sign for other labs, also those of other
// processes: what listens on the TCP port comes and goes, and another lab must not find it free meanwhile.
func (lab *Lab) take(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	sign, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return err
	}
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(err, sign.Close())
	}
	return errors.Join(l.Close(), lab.own(sign.Close))
}
