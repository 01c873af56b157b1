package faulttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports that are kept while nobody listens on them lie below those that systems give away by themselves.
const (
	lowestPort  = 12000
	highestPort = 32000
)

// freePort chooses a host:port on which nobody listens, and which the lab has not chosen before.
func (lab *Lab) freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	var last error
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowestPort+rand.IntN(highestPort-lowestPort)))
		if lab.taken(addr) {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			last = err
			continue
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("find a free port: %w", last)
}

// taken remembers addr and tells whether it was known.
func (lab *Lab) taken(addr string) bool {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	lab.numbers["port "+addr]++
	return lab.numbers["port "+addr] > 1
}
