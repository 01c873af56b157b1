package auth

import (
	"context"
	"crypto/x509"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// peerID is who presented a certificate.
type peerID struct {
	service string // empty: it names nobody, and is good for tokens that are bound to it only
	spiffe  string
	thumb   string // hash of the certificate, for tokens that are bound to it
	caller  *caller
}

// peers tells who a certificate is. A connection has one certificate for all its calls, so that is worked out once.
type peers struct {
	before, after string // what is around the service's name in a SPIFFE ID; both empty: no ID stands for a service
	callers       *callers

	mu    sync.RWMutex
	known map[*x509.Certificate]*peerID
}

// mostPeers bounds the certificates that are remembered, which are those of connections that may have ended.
const mostPeers = 1024

func newPeers(cfg MTLSConfig, c *callers) *peers {
	p := &peers{callers: c, known: map[*x509.Certificate]*peerID{}}
	p.before, p.after, _ = strings.Cut(cfg.SPIFFE, serviceInTemplate)
	return p
}

// of returns who is at the other end of the connection, nil if there is no certificate or it was not verified.
func (p *peers) of(ctx context.Context) *peerID {
	at, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := at.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil
	}
	leaf := info.State.VerifiedChains[0][0]
	p.mu.RLock()
	id, known := p.known[leaf]
	p.mu.RUnlock()
	if known {
		return id
	}
	id = p.read(leaf)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= mostPeers {
		clear(p.known)
	}
	p.known[leaf] = id
	return id
}

// read finds out whom a certificate names.
func (p *peers) read(leaf *x509.Certificate) *peerID {
	id := &peerID{thumb: thumbprint(leaf.Raw)}
	// A certificate with more than one URI is no SPIFFE certificate, and which one counted would be anybody's guess.
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" {
		id.spiffe = leaf.URIs[0].String()
	}
	if p.before == "" {
		id.service = serviceName(leaf.DNSNames)
	} else { // IDs say who is a service here, and DNS names do not
		id.service = p.inSPIFFE(id.spiffe)
	}
	if id.service == "" {
		id.service = id.spiffe
	}
	if id.service != "" {
		id.caller = p.callers.of(id.service)
	}
	return id
}

// inSPIFFE is the service that an ID stands for.
func (p *peers) inSPIFFE(id string) string {
	if p.before == "" {
		return ""
	}
	rest, ok := strings.CutPrefix(id, p.before)
	if !ok {
		return ""
	}
	name, ok := strings.CutSuffix(rest, p.after)
	if !ok || !isServiceName(name) {
		return ""
	}
	return name
}

// serviceName is the first name that has the form of a service name, else the first one, unless that looks like an ID: a
// rule that names an ID means one.
func serviceName(names []string) string {
	for _, n := range names {
		if isServiceName(n) {
			return n
		}
	}
	if len(names) > 0 && !strings.Contains(names[0], ":") {
		return names[0]
	}
	return ""
}

// isServiceName tells whether something has the form of a service name: lower-case words joined by dashes.
func isServiceName(s string) bool {
	if s == "" || len(s) > 50 || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for i := 1; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || s[i-1] == '-') {
			return false
		}
	}
	return true
}
