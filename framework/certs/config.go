package certs

import (
	"errors"
	"fmt"
)

// ServerConfig names the files of a listener. All empty means plaintext.
type ServerConfig struct {
	// Cert is the PEM file with the server's certificate, followed by its intermediates. Default: empty, no TLS.
	Cert string `config:"cert"`
	// Key is the PEM file with the private key of Cert. Default: empty.
	Key string `config:"key"`
	// ClientCA is a PEM file with the authorities that clients must be certified by. Set, it makes a client
	// certificate mandatory (mTLS); empty, clients are not asked for one. Default: empty.
	ClientCA string `config:"client_ca"`
}

// Enabled reports whether any file is named, that is whether the listener speaks TLS.
func (c ServerConfig) Enabled() bool { return c != ServerConfig{} }

// Validate looks at the combination of keys only; the files are read by [Server].
func (c ServerConfig) Validate() error {
	if c.ClientCA != "" && c.Cert == "" && c.Key == "" {
		return errors.New("cert: not set, but client_ca is; mTLS needs the server's own certificate too, set cert and key")
	}
	return validatePair(c.Cert, c.Key)
}

// ClientConfig says how a client proves who it talks to, and who it is itself. The zero value means plaintext; any
// field set means TLS.
type ClientConfig struct {
	// Enabled switches TLS on where no file is needed: system roots and no client certificate. Default: false.
	Enabled bool `config:"enabled"`
	// CA is a PEM file with the authorities that servers must be certified by; they replace the system's. Default:
	// empty, the system's roots.
	CA string `config:"ca"`
	// Cert is the PEM file with the client's certificate, for servers that ask for one (mTLS). Default: empty, none.
	Cert string `config:"cert"`
	// Key is the PEM file with the private key of Cert. Default: empty.
	Key string `config:"key"`
	// ServerName is the name that the server's certificate must carry, in place of the name that was dialled.
	// Default: empty, the dialled name.
	ServerName string `config:"server_name"`
	// SPIFFEID is what the server's certificate must carry in place of a name, for example
	// "spiffe://example.org/ns/default/sa/user-service"; its names then count for nothing. The ID that is expected comes
	// from here and nowhere else: whoever could write it into a registry could pass for anybody. Default: empty, a name.
	SPIFFEID string `config:"spiffe_id"`
}

// Active reports whether TLS is to be spoken: Enabled, or any other field set.
func (c ClientConfig) Active() bool { return c != ClientConfig{} }

// Validate looks at the combination of keys only; the files are read by [Client].
func (c ClientConfig) Validate() error {
	if c.SPIFFEID != "" {
		if c.ServerName != "" {
			return fmt.Errorf("spiffe_id: %q is set beside server_name %q; one of them says who the server must be, remove the other", c.SPIFFEID, c.ServerName)
		}
		if err := checkSPIFFE(c.SPIFFEID); err != nil {
			return fmt.Errorf("spiffe_id: %w", err)
		}
	}
	return validatePair(c.Cert, c.Key)
}

func validatePair(cert, key string) error {
	switch {
	case cert != "" && key == "":
		return fmt.Errorf("key: not set, but cert is %q; name the file with its private key", cert)
	case cert == "" && key != "":
		return fmt.Errorf("cert: not set, but key is %q; name the file with its certificate", key)
	}
	return nil
}
