package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// checkEvery bounds how often handshakes look at the files again.
const checkEvery = time.Second

// material is one validated set of files. It is never changed once published.
type material struct {
	pair  *tls.Certificate // nil: none configured
	roots *x509.CertPool   // nil: none configured
}

// paths names the files of one side, with the config key of each.
type paths struct {
	cert, key     string
	ca, caKeyName string
}

// files holds the last good material of a set of files and looks at them again when asked.
type files struct {
	paths    paths
	onReload func(what string, err error)

	mu      sync.Mutex
	checked time.Time // when the files were read last
	raw     [3][]byte // what was read last, good or bad: the same bad bytes are not reported twice
	lastErr string    // why the last look failed; empty when it did not
	good    *material
}

func newFiles(p paths, o options) (*files, error) {
	f := &files{paths: p, onReload: o.onReload}
	raw, err := p.read()
	if err != nil {
		return nil, err
	}
	m, err := p.parse(raw)
	if err != nil {
		return nil, err
	}
	f.raw, f.good, f.checked = raw, m, time.Now()
	return f, nil
}

// current returns the newest valid material, after a look at the files if the last one is old enough. Handshakes that
// come during such a look wait for it; it reads three small files.
func (f *files) current() *material {
	f.mu.Lock()
	report, err := f.checkLocked()
	m := f.good
	f.mu.Unlock()
	if report && f.onReload != nil {
		f.onReload(f.paths.String(), err)
	}
	return m
}

// checkLocked reads the files when it is time to. It reports whether there is news, and the error that kept the old
// set.
func (f *files) checkLocked() (report bool, err error) {
	now := time.Now()
	if now.Sub(f.checked) < checkEvery {
		return false, nil
	}
	f.checked = now
	raw, err := f.paths.read()
	if err != nil {
		f.raw = [3][]byte{} // the files must be parsed again once they can be read, even if they are the old ones
		return f.failLocked(err), err
	}
	if same(raw, f.raw) {
		return false, nil
	}
	f.raw = raw
	m, err := f.paths.parse(raw)
	if err != nil {
		return f.failLocked(err), err
	}
	f.good, f.lastErr = m, ""
	return true, nil
}

func (f *files) failLocked(err error) (news bool) {
	news = f.lastErr != err.Error()
	f.lastErr = err.Error()
	return news
}

func same(a, b [3][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// String lists the files, for reports.
func (p paths) String() string {
	var named []string
	for _, path := range []string{p.cert, p.key, p.ca} {
		if path != "" {
			named = append(named, path)
		}
	}
	return strings.Join(named, ", ")
}

func (p paths) read() (raw [3][]byte, err error) {
	for i, f := range []struct{ key, path string }{{"cert", p.cert}, {"key", p.key}, {p.caKeyName, p.ca}} {
		if f.path == "" {
			continue
		}
		raw[i], err = os.ReadFile(f.path)
		if err != nil {
			return raw, fmt.Errorf("%s: reading %q: %w; name a PEM file that this process may read", f.key, f.path, err)
		}
	}
	return raw, nil
}

func (p paths) parse(raw [3][]byte) (*material, error) {
	m := &material{}
	if p.cert != "" {
		pair, err := p.parsePair(raw[0], raw[1])
		if err != nil {
			return nil, err
		}
		m.pair = pair
	}
	if p.ca != "" {
		certs, err := parseCerts(raw[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", p.caKeyName, p.ca, err)
		}
		m.roots = x509.NewCertPool()
		for _, c := range certs {
			m.roots.AddCert(c)
		}
	}
	return m, nil
}

func (p paths) parsePair(cert, key []byte) (*tls.Certificate, error) {
	chain, err := parseCerts(cert)
	if err != nil {
		return nil, fmt.Errorf("cert: %q: %w", p.cert, err)
	}
	if now := time.Now(); now.After(chain[0].NotAfter) {
		return nil, fmt.Errorf("cert: %q expired at %s; install a new one", p.cert, chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
	if block, _ := pem.Decode(key); block == nil {
		return nil, fmt.Errorf("key: %q holds no PEM block; expected a private key", p.key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("key: %q does not go with the certificate of %q: %w", p.key, p.cert, err)
	}
	return &pair, nil
}

// parseCerts is strict where [x509.CertPool.AppendCertsFromPEM] is not: a file that is only half there is refused.
func parseCerts(raw []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := raw
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the file: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if bytes.Contains(rest, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("the file ends within a PEM block after %d certificates; it is damaged or still being written", len(certs))
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no certificate found; expected PEM blocks of type CERTIFICATE")
	}
	return certs, nil
}
