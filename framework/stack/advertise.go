package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// routeTimeout bounds the look-up of etcd's names, which is all that can take time.
const routeTimeout = 3 * time.Second

// advertiseQuery is everything that the choice of the advertised address depends on.
type advertiseQuery struct {
	explicit string   // registration.advertise
	listen   string   // where the server listens, with its real port
	podIP    string   // the environment's POD_IP
	etcd     []string // endpoints; the route to one of them tells which of our addresses others see
	loopback bool     // whether a loopback address may be advertised
}

// advertise picks the address that others are told: the configured one, else the host the server listens on if it is a
// concrete one, else POD_IP, else the address from which this machine reaches etcd. No packet is sent for that.
func advertise(ctx context.Context, q advertiseQuery) (string, error) {
	host, port, err := net.SplitHostPort(q.listen)
	if err != nil {
		return "", fmt.Errorf("the server listens on %q, from which no address can be advertised; set registration.advertise", q.listen)
	}
	origin := "registration.advertise"
	switch {
	case q.explicit != "":
		if h, p, err := net.SplitHostPort(q.explicit); err == nil {
			host, port = h, p
		} else {
			host = strings.Trim(q.explicit, "[]")
		}
	case concrete(host):
		origin = "server.listen"
	case q.podIP != "":
		host, origin = q.podIP, "POD_IP"
	default:
		origin = "the route to etcd"
		if host, err = routeSource(ctx, q.etcd); err != nil {
			return "", err
		}
	}
	addr := net.JoinHostPort(host, port)
	if err := discovery.CheckAddr(addr); err != nil {
		return "", fmt.Errorf("advertised address (from %s): %w", origin, err)
	}
	if local(host) && !q.loopback {
		return "", fmt.Errorf("advertised address %q (from %s) can't be reached from other machines; "+
			"set registration.advertise to one that can, or run under newsvc dev (it sets NEWSVC_DEV=1)", addr, origin)
	}
	return addr, nil
}

// reachable is the admin server's address as those see it who reach this instance under advertised; empty when it
// listens where only this machine gets at.
func reachable(admin, advertised string) string {
	host, port, err := net.SplitHostPort(admin)
	if err != nil {
		return ""
	}
	other, _, err := net.SplitHostPort(advertised)
	if err != nil {
		return ""
	}
	if !concrete(host) {
		return net.JoinHostPort(other, port)
	}
	if local(host) && !local(other) {
		return ""
	}
	return admin
}

// local reports whether a host is of no use on other machines.
func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
	}
	return ip.IsLoopback() || ip.IsLinkLocalUnicast()
}

func concrete(host string) bool {
	if host == "" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || !ip.IsUnspecified()
}

// routeSource asks the system which local address it would use toward one of the endpoints.
func routeSource(ctx context.Context, endpoints []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, routeTimeout)
	defer cancel()
	var last error
	for _, ep := range endpoints {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", hostPort(ep)) // connecting a UDP socket only looks up the route
		if err != nil {
			last = err
			continue
		}
		host, _, err := net.SplitHostPort(conn.LocalAddr().String())
		if cerr := conn.Close(); err == nil && cerr == nil {
			return host, nil
		}
	}
	return "", fmt.Errorf("no address to advertise: server.listen names no host, POD_IP is not set, and no route to etcd %q was found (%v); set registration.advertise", endpoints, last)
}

func hostPort(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
		return u.Host
	}
	return endpoint
}
