package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// checkSPIFFE tells whether an ID has the form that SPIFFE gives it: a trust domain and a path, and nothing else.
func checkSPIFFE(id string) error {
	u, err := url.Parse(id)
	if err != nil || u.Scheme != "spiffe" || u.Host == "" || u.Port() != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		len(u.Path) < 2 || strings.HasSuffix(u.Path, "/") || u.String() != id {
		return fmt.Errorf(`%q is no SPIFFE ID of a service; write for example "spiffe://example.org/ns/default/sa/user-service"`, id)
	}
	return nil
}

// verifySPIFFE checks the peer's chain against roots (nil: the system's), and that its certificate is for exactly that
// ID.
func verifySPIFFE(cs tls.ConnectionState, roots *x509.CertPool, id string) error {
	if err := verify(cs, roots, "", x509.ExtKeyUsageServerAuth); err != nil {
		return err
	}
	uris := cs.PeerCertificates[0].URIs
	switch {
	case len(uris) == 0:
		return fmt.Errorf("verifying the certificate of %q: it has no SPIFFE ID", id)
	case len(uris) > 1:
		return errors.New("verifying the server's certificate: it has more than one URI, which no SPIFFE certificate has")
	case uris[0].String() != id:
		return fmt.Errorf("verifying the certificate of %q: it is for %q", id, uris[0].String())
	}
	return nil
}
