package etcdclient

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
)

// Config says where etcd is and how to talk to it. All of it needs a restart to change, but the contents of the TLS files.
type Config struct {
	// Endpoints are the members' client addresses, each host:port, or with http:// or https:// before it. One is
	// enough to start with, but only those listed are ever used: list all members. In environment and flags they are
	// separated by commas or semicolons. Default: 127.0.0.1:2379.
	Endpoints []string `config:"endpoints"`
	// CallTimeout bounds each single call to etcd, not the time for which a task is retried. Less makes an outage
	// known sooner, more tolerates slow disks and elections (about 1.5 s). Default: 3s.
	CallTimeout time.Duration `config:"call_timeout"`
	// TLS is how to connect and how to prove who we are. Default: plaintext.
	TLS certs.ClientConfig `config:"tls"`
	// Username is the etcd user; its role needs read and write on discovery.prefix. A client certificate is cheaper for
	// etcd: it costs no password check for each new stream. Default: empty, no authentication.
	Username string `config:"username"`
	// Password belongs to Username. Default: empty.
	Password string `config:"password" secret:"true"`
}

// DefaultConfig is an etcd without TLS and authentication on this machine.
func DefaultConfig() Config {
	return Config{Endpoints: []string{"127.0.0.1:2379"}, CallTimeout: 3 * time.Second}
}

// Validate looks at the values only, not at files or the network. Its error starts with the key at fault.
func (c Config) Validate() error {
	if len(c.Endpoints) == 0 {
		return errors.New(`endpoints: none given; list etcd's client addresses, for example ["127.0.0.1:2379"]`)
	}
	for _, ep := range c.Endpoints {
		if err := c.checkEndpoint(ep); err != nil {
			return fmt.Errorf("endpoints: %w", err)
		}
	}
	if c.CallTimeout < 100*time.Millisecond || c.CallTimeout > time.Minute {
		return fmt.Errorf(`call_timeout: %q is out of bounds; use 100ms to 1m, for example "3s"`, c.CallTimeout)
	}
	if err := c.TLS.Validate(); err != nil {
		return fmt.Errorf("tls.%w", err)
	}
	switch {
	case c.Username == "" && c.Password != "":
		return errors.New("username: not set, but password is; name the etcd user, or remove the password")
	case c.Username != "" && c.Password == "":
		return fmt.Errorf("password: not set, but username is %q; set it, best through the environment", c.Username)
	}
	return nil
}

func (c Config) checkEndpoint(ep string) error {
	addr := withoutScheme(ep)
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf(`%q is no etcd address; write host:port, for example "127.0.0.1:2379"`, ep)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf(`%q has no usable port; write host:port without a path, for example "127.0.0.1:2379"`, ep)
	}
	switch {
	case strings.HasPrefix(ep, "http://") && c.TLS.Active():
		return fmt.Errorf("%q means plaintext, but tls is configured; write %q", ep, "https://"+addr)
	case strings.HasPrefix(ep, "https://") && !c.TLS.Active():
		return fmt.Errorf("%q means TLS, but tls is not configured; set tls.enabled: true, or tls.ca to the authority of etcd's certificates", ep)
	}
	return nil
}

func withoutScheme(ep string) string {
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(ep, scheme); ok {
			return rest
		}
	}
	return ep
}
