package etcdlink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ConnError is why a connection to an endpoint of etcd failed.
type ConnError struct {
	// Endpoint is host:port.
	Endpoint string
	// Err is what the connection, or the handshake of TLS, ended with.
	Err  error
	kind kind
	told error // the error of a call that this explains; part of the chain, not of the text
}

type kind int

const (
	other       kind = iota // nobody listens, no way there, a connection that broke: it may be well in a moment
	authority               // etcd's certificate is of nobody whom we trust
	name                    // etcd's certificate is for another name
	outdated                // etcd's certificate is not valid now, or not for this
	demanded                // etcd wants a client certificate
	refused                 // etcd does not want ours
	speaksTLS               // we spoke plaintext
	speaksPlain             // we spoke TLS
	handshake               // anything else that TLS ended with
)

// Error is the cause alone, without what to do.
func (f *ConnError) Error() string { return f.Err.Error() }

// Unwrap returns the cause and the error of the call that it explains.
func (f *ConnError) Unwrap() []error {
	if f.told == nil {
		return []error{f.Err}
	}
	return []error{f.Err, f.told}
}

// Certain reports whether it stays so until somebody changes the settings, or etcd. It is false of nil.
func (f *ConnError) Certain() bool { return f != nil && f.kind != other }

// Scheme is what has to stand before the address for etcd to be talked to: https or http when it was spoken to in the other
// way, else empty.
func (f *ConnError) Scheme() string {
	switch f.kind {
	case speaksTLS:
		return "https"
	case speaksPlain:
		return "http"
	}
	return ""
}

// Remedy is what to do about it, in terms of a service's settings.
func (f *ConnError) Remedy() string {
	switch f.kind {
	case authority:
		return "set etcd.tls.ca to the file of the authority that signed etcd's certificate"
	case name:
		return "etcd.endpoints has to name etcd as its certificate does, or the certificate has to name this address"
	case outdated:
		return "etcd's certificate has to be renewed"
	case demanded:
		return "set etcd.tls.cert and etcd.tls.key: it wants a client certificate"
	case refused:
		return "etcd.tls.cert has to be valid and of an authority that etcd trusts"
	case speaksTLS:
		return fmt.Sprintf("it speaks TLS: write https://%s in etcd.endpoints and set etcd.tls.ca", f.Endpoint)
	case speaksPlain:
		return fmt.Sprintf("it does not speak TLS: write http://%s in etcd.endpoints and remove etcd.tls", f.Endpoint)
	case handshake:
		return "see etcd.tls and etcd's own log"
	}
	return "is it running, and is etcd.endpoints right?"
}

// Silent explains why a call to etcd was not answered: "does not answer", or that it can't be talked to, the cause, and what
// to do. err, which a call ended with, is part of what is returned.
func Silent(cli *clientv3.Client, err error) error {
	endpoints := cli.Endpoints()
	f := Of(cli).Failure(endpoints...)
	if f == nil {
		return fmt.Errorf("does not answer: %w; is it running, and is etcd.endpoints right?", err)
	}
	cause := *f
	cause.told = err
	verb := "does not answer"
	if f.Certain() {
		verb = "can't be talked to"
	}
	if len(endpoints) > 1 && !strings.Contains(f.Error(), f.Endpoint) {
		verb += " (" + f.Endpoint + ")"
	}
	return fmt.Errorf("%s: %w; %s", verb, &cause, f.Remedy())
}

// ofHandshake tells what the handshake of TLS ended with.
func ofHandshake(addr string, err error) *ConnError {
	f := &ConnError{Endpoint: addr, Err: err, kind: handshake}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var plain tls.RecordHeaderError
	text := err.Error()
	switch {
	case errors.As(err, &unknown):
		f.kind = authority
	case errors.As(err, &host), strings.Contains(text, "doesn't contain any IP SANs"):
		f.kind = name
	case errors.As(err, &invalid):
		f.kind = outdated
	case errors.As(err, &plain):
		f.kind, f.Err = speaksPlain, errors.New("tls: "+plain.Msg) // without the bytes of the record
	case strings.Contains(text, "tls: certificate required"):
		f.kind = demanded
	case strings.Contains(text, "remote error: tls:"):
		f.kind = ofAlert(text)
	case errors.Is(err, context.DeadlineExceeded), !strings.Contains(text, "tls: "):
		f.kind = other // it hung up, or took too long
	}
	return f
}

// ofAlert tells what etcd does not like.
func ofAlert(text string) kind {
	for _, alert := range []string{"bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate"} {
		if strings.HasSuffix(text, alert) || strings.HasSuffix(text, alert+" authority") {
			return refused
		}
	}
	return handshake
}
