package admin

import (
	"net/http"
	"net/netip"
	"strings"
)

// guarded answers strangers only what tells nothing of settings and memory and changes nothing.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if private(r) && !trusted(r) {
			text(w, http.StatusForbidden, r.Method+" "+r.URL.Path+" is for this machine (kubectl port-forward is, too) and for client certificates of admin.tls.client_ca; "+
				"admin.remote: true opens it to all who reach this port")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// private reports whether a request is for more than probes, metrics and discovery.
func private(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/healthz", "/readyz", "/metrics", "/debug/discovery":
		return false
	case "/log/level":
		return r.Method != http.MethodGet && r.Method != http.MethodHead
	}
	return strings.HasPrefix(r.URL.Path, "/debug/")
}

// trusted reports whether a request comes from this machine, or with a certificate that was verified.
func trusted(r *http.Request) bool {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}
