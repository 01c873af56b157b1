// Package certs makes TLS configurations from PEM files and follows the files when they change: a rotated
// certificate, a new authority or one that is no longer trusted counts from the next handshake on, without a restart.
// It starts nothing and holds nothing open: the files are looked at during handshakes, at most once a second, and a
// set that does not validate as a whole leaves the last good one in use.
//
// It is not a certificate manager: it issues and renews nothing, and it does not end connections that were
// made with an older set; a limit on their age does that.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"
)

// Option changes what [Server] and [Client] build.
type Option interface{ apply(*options) }

type options struct {
	onReload   func(what string, err error)
	nextProtos []string
	minVersion uint16
	hosts      []string
}

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

// OnReload has fn told of each set of files that came into use after the first one (err nil), and of each changed set
// that was refused (err says why; the old set stays). What lists the files. Fn is called from a handshake and must
// not block; calls may overlap.
func OnReload(fn func(what string, err error)) Option {
	return optionFunc(func(o *options) { o.onReload = fn })
}

// LogTo is [OnReload] for who wants nothing but to have it told: files that came into use at info, files that were
// refused at warn.
func LogTo(log *zap.Logger) Option {
	return OnReload(func(what string, err error) {
		if err != nil {
			log.Warn("changed certificate files are refused, the old ones stay in use", zap.String("files", what), zap.Error(err))
			return
		}
		log.Info("certificate files were read anew", zap.String("files", what))
	})
}

// NextProtos sets the protocols offered by ALPN, most wanted first. gRPC's credentials add "h2" by themselves; a
// net/http server with a configuration made by [Server] needs NextProtos("h2", "http/1.1") to speak HTTP/2.
func NextProtos(protos ...string) Option {
	return optionFunc(func(o *options) { o.nextProtos = slices.Clone(protos) })
}

// AllowTLS12 accepts peers that cannot speak TLS 1.3, which is the minimum otherwise.
func AllowTLS12() Option {
	return optionFunc(func(o *options) { o.minVersion = tls.VersionTLS12 })
}

// Hosts is for clients of several addresses that have no one name, such as the endpoints of an etcd cluster, some of
// them IP addresses: a server dialled by IP address must have a certificate for one of these hosts (names or IP
// addresses). A server dialled by name must have one for that name, whatever hosts are given. It is used only when
// [Client] is given no name.
func Hosts(hosts ...string) Option {
	return optionFunc(func(o *options) { o.hosts = slices.Clone(hosts) })
}

func newOptions(opts []Option) options {
	o := options{minVersion: tls.VersionTLS13}
	for _, opt := range opts {
		opt.apply(&o)
	}
	return o
}

// Server reads the files of cfg and returns the configuration of a listener, or nil (and no error) when cfg names no
// file, that is for plaintext. With ClientCA set, peers must present a certificate of these authorities, and the
// verified chain is in [tls.ConnectionState.VerifiedChains]. Errors start with the config key at fault.
func Server(cfg ServerConfig, opts ...Option) (*tls.Config, error) {
	if !cfg.Enabled() {
		return nil, nil
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o := newOptions(opts)
	f, err := newFiles(paths{cert: cfg.Cert, key: cfg.Key, ca: cfg.ClientCA, caKeyName: "client_ca"}, o)
	if err != nil {
		return nil, err
	}
	outer := &tls.Config{MinVersion: o.minVersion, NextProtos: o.nextProtos}
	outer.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current().pair, nil }
	if cfg.ClientCA == "" {
		return outer, nil
	}
	// The authorities of a tls.Config cannot change, so each handshake gets a configuration of its own.
	outer.ClientAuth = tls.RequireAndVerifyClientCert
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := f.current()
		return &tls.Config{
			MinVersion:   o.minVersion,
			NextProtos:   o.nextProtos,
			Certificates: []tls.Certificate{*m.pair},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    m.roots,
			VerifyConnection: func(cs tls.ConnectionState) error {
				if !cs.DidResume {
					return nil // verified by crypto/tls just now
				}
				// A session may be older than the distrust of its authority.
				return verify(cs, m.roots, "", x509.ExtKeyUsageClientAuth)
			},
		}, nil
	}
	return outer, nil
}

// Client reads the files of cfg and returns the configuration of a client, or nil (and no error) when cfg is the zero
// value, that is for plaintext. The server's certificate must carry cfg.SPIFFEID if that is set, else cfg.ServerName, else
// serverName; when all are empty, the name that was dialled, and then dialling an IP address needs [Hosts]. Errors start with the config key
// at fault.
//
// The configuration verifies by itself, against the authorities of the moment; its InsecureSkipVerify is set only to
// switch off the standard check against fixed ones.
func Client(cfg ClientConfig, serverName string, opts ...Option) (*tls.Config, error) {
	if !cfg.Active() {
		return nil, nil
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o := newOptions(opts)
	f, err := newFiles(paths{cert: cfg.Cert, key: cfg.Key, ca: cfg.CA, caKeyName: "ca"}, o)
	if err != nil {
		return nil, err
	}
	if cfg.ServerName != "" {
		serverName = cfg.ServerName
	}
	conf := &tls.Config{
		MinVersion:         o.minVersion,
		NextProtos:         o.nextProtos,
		ServerName:         serverName,
		InsecureSkipVerify: true, // VerifyConnection below verifies chain and name
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cfg.SPIFFEID != "" {
				return verifySPIFFE(cs, f.current().roots, cfg.SPIFFEID)
			}
			return verifyServer(cs, f.current().roots, serverName, o.hosts)
		},
	}
	if cfg.Cert != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.current().pair, nil }
	}
	return conf, nil
}

// verifyServer checks the peer's chain and its name: the configured one, else the dialled one, else one of hosts. It
// does not trust cs.ServerName to be there: crypto/tls leaves it empty when an IP address was dialled.
func verifyServer(cs tls.ConnectionState, roots *x509.CertPool, name string, hosts []string) error {
	if name == "" {
		name = cs.ServerName
	}
	if name != "" {
		return verify(cs, roots, name, x509.ExtKeyUsageServerAuth)
	}
	if len(hosts) == 0 {
		return errors.New("verifying the server's certificate: an IP address was dialled and no name is known to check; set server_name")
	}
	var errs []error
	for _, host := range hosts {
		err := verify(cs, roots, host, x509.ExtKeyUsageServerAuth)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// verify checks the peer's chain against roots (nil: the system's) and, if name is not empty, the name.
func verify(cs tls.ConnectionState, roots *x509.CertPool, name string, usage x509.ExtKeyUsage) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("verifying the peer's certificate: it presented none")
	}
	o := x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := cs.PeerCertificates[0].Verify(o); err != nil {
		if name == "" {
			return fmt.Errorf("verifying the peer's certificate: %w", err)
		}
		return fmt.Errorf("verifying the certificate of %q: %w", name, err)
	}
	return nil
}
