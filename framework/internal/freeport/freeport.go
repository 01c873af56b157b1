// Package freeport chooses ports for servers that are to come back at the same address.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports lie below those that systems give to outgoing connections and to servers that ask for any: such a port may be taken
// by somebody else while its server is away. They also lie above those that programs are known by.
const (
	lowest  = 24000
	highest = 32000
)

// Choose returns host with a port on which nobody listens at present.
func Choose(ctx context.Context, host string) (addr string, err error) {
	for range 100 {
		addr = net.JoinHostPort(host, strconv.Itoa(lowest+rand.IntN(highest-lowest)))
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}
