package certs

import (
	"fmt"
	"os"
	"time"
)

// Expiry is when what a file holds stops being accepted.
type Expiry struct {
	File string
	// At is when the certificate, or an intermediate after it, expires; for authorities, when the last of them does. Zero when
	// the file can't be read.
	At  time.Time
	Err error
}

// Expiry reads the files anew and says when they expire. A file may be newer than what is in use: that follows within a second
// of the next handshake, unless it is refused.
func (c ServerConfig) Expiry() []Expiry { return expiry(c.Cert, c.ClientCA) }

// Expiry is [ServerConfig.Expiry] of a client's files.
func (c ClientConfig) Expiry() []Expiry { return expiry(c.Cert, c.CA) }

func expiry(cert, ca string) (all []Expiry) {
	if cert != "" {
		all = append(all, expiryOf(cert, func(a, b time.Time) bool { return a.Before(b) }))
	}
	if ca != "" {
		all = append(all, expiryOf(ca, func(a, b time.Time) bool { return a.After(b) }))
	}
	return all
}

// expiryOf returns the expiry of the file's certificates that wins over all others.
func expiryOf(file string, wins func(a, b time.Time) bool) Expiry {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Expiry{File: file, Err: err}
	}
	list, err := parseCerts(raw)
	if err != nil {
		return Expiry{File: file, Err: fmt.Errorf("%q: %w", file, err)}
	}
	e := Expiry{File: file, At: list[0].NotAfter}
	for _, c := range list[1:] {
		if wins(c.NotAfter, e.At) {
			e.At = c.NotAfter
		}
	}
	return e
}
