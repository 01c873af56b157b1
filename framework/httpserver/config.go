package httpserver

import (
	"fmt"
	"net"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
)

// TLSConfig names the certificate files of a listener; rooms that are built on this one say it with this name.
type TLSConfig = certs.ServerConfig

// Config is the part of a listener that an operator may change. All of it needs a restart. There is no limit on the
// time a response may take, because streams take as long as they take.
type Config struct {
	// Listen is the host:port to listen on; an empty host means all interfaces, port 0 any free port. Default: given
	// to [DefaultConfig].
	Listen string `config:"listen"`
	// TLS names certificate files; empty is plaintext. Default: empty.
	TLS TLSConfig `config:"tls"`
	// ReadHeaderTimeout bounds the time in which the headers of a request must arrive. Default 5 s.
	ReadHeaderTimeout time.Duration `config:"read_header_timeout"`
	// ReadTimeout bounds the time in which a whole request must arrive, its body included. Default 0, none: it would
	// also end uploads that are merely slow.
	ReadTimeout time.Duration `config:"read_timeout"`
	// IdleTimeout is how long a connection without a request is kept. Default 2 min.
	IdleTimeout time.Duration `config:"idle_timeout"`
	// MaxHeaderBytes is the size of the largest set of request headers accepted. Default 64 KiB.
	MaxHeaderBytes int `config:"max_header_bytes"`
	// MaxBodyBytes is the size of the largest request body accepted; reading beyond it fails. Default 4 MiB; 0 means
	// no limit.
	MaxBodyBytes int64 `config:"max_body_bytes"`
}

// DefaultConfig returns the defaults named at each field, for an address.
func DefaultConfig(listen string) Config {
	return Config{
		Listen:            listen,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		MaxBodyBytes:      4 << 20,
	}
}

// Validate reports the first field that makes no sense; the error starts with its key. It opens no file and no
// socket.
func (c Config) Validate() error {
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		return fmt.Errorf(`listen: %q is no host:port; write for example ":8080"`, c.Listen)
	}
	if err := c.TLS.Validate(); err != nil {
		return fmt.Errorf("tls.%w", err)
	}
	for _, f := range []struct {
		key string
		d   time.Duration
	}{{"read_header_timeout", c.ReadHeaderTimeout}, {"read_timeout", c.ReadTimeout}, {"idle_timeout", c.IdleTimeout}} {
		if f.d < 0 {
			return fmt.Errorf("%s: %s is negative; use 0 for no limit", f.key, f.d)
		}
	}
	if c.MaxHeaderBytes <= 0 {
		return fmt.Errorf("max_header_bytes: %d is out of range; use 1 or more", c.MaxHeaderBytes)
	}
	if c.MaxBodyBytes < 0 {
		return fmt.Errorf("max_body_bytes: %d is negative; use 0 for no limit", c.MaxBodyBytes)
	}
	return nil
}
