package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type serverConfig struct {
	Listen  string            `config:"listen"`
	Timeout time.Duration     `config:"timeout" reload:"live"`
	Max     int               `config:"max"`
	Tiny    int8              `config:"tiny"`
	Share   float64           `config:"share"`
	Reflect bool              `config:"reflect"`
	Accept  []string          `config:"accept_names"`
	Labels  map[string]string `config:"labels"`
	TLS     tlsConfig         `config:"tls" reload:"redial"`
	From    netip.Prefix      `config:"from"`
	Rules   []rule            `config:"rules"`
	Quota   map[string]quota  `config:"quota"`
	Size    uint16            `config:"size"`
	Hook    func()            `config:"-"`
}

type tlsConfig struct {
	Cert string `config:"cert"`
	Key  string `config:"key" reload:"live"`
}

type rule struct {
	Path  string        `config:"path"`
	After time.Duration `config:"after"`
	Token string        `config:"token" secret:"true"`
}

type quota struct {
	Rate  int `config:"rate"`
	Burst int `config:"burst"`
}

func (c serverConfig) Validate() error {
	var errs []error
	if !strings.Contains(c.Listen, ":") {
		errs = append(errs, fmt.Errorf(`listen: %q is no host:port; write for example ":9000"`, c.Listen))
	}
	if c.Max < 0 {
		errs = append(errs, fmt.Errorf("max: %d is negative; write 0 for no limit", c.Max))
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		errs = append(errs, errors.New("tls: cert and key belong together; set both or none"))
	}
	return errors.Join(errs...)
}

type etcdConfig struct {
	Endpoints []string      `config:"endpoints"`
	Password  string        `config:"password" secret:"true"`
	Pin       int           `config:"pin" secret:"true"`
	Wait      time.Duration `config:"wait" secret:"true"`
	Tokens    []string      `config:"tokens" secret:"true"`
}

var errPassword = errors.New("too short")

func (c etcdConfig) Validate() error {
	if c.Password != "" && len(c.Password) < 8 {
		return fmt.Errorf("password: %q is %w; write 8 characters", c.Password, errPassword)
	}
	return nil
}

type policy struct {
	Timeout time.Duration `config:"timeout" reload:"live"`
	Retries int           `config:"retries" reload:"pushed"`
	Target  string        `config:"target" reload:"redial"`
	Codes   []string      `config:"codes"`
}

func (p policy) Validate() error {
	if p.Timeout <= 0 {
		return fmt.Errorf("timeout: %q is not positive; write for example \"5s\"", p.Timeout)
	}
	return nil
}

func serverDefaults() serverConfig {
	return serverConfig{Listen: ":9000", Timeout: 5 * time.Second, Max: 10, Share: 0.5, Accept: []string{"one"},
		Labels: map[string]string{"team": "core"}}
}

func sections() []config.Section {
	return []config.Section{
		{Path: "server", Defaults: serverDefaults()},
		{Path: "etcd", Defaults: etcdConfig{Endpoints: []string{"127.0.0.1:2379"}}},
		{Path: "clients.defaults", Defaults: policy{Timeout: time.Second, Retries: 1}},
		{Path: "clients.user-service", Inherits: "clients.defaults"},
		{Path: "clients.billing", Inherits: "clients.defaults", Defaults: policy{Timeout: 9 * time.Second}},
	}
}

// load loads with config.yaml holding text, unless it is empty.
func load(t *testing.T, text string, change func(*config.Sources)) (*config.Config, error) {
	t.Helper()
	src := config.Sources{Service: "blogger-user", Dir: t.TempDir()}
	if text != "" {
		write(t, src.Dir, "config.yaml", text)
	}
	if change != nil {
		change(&src)
	}
	return config.Load(src, sections()...)
}

func mustLoad(t *testing.T, text string, change func(*config.Sources)) *config.Config {
	t.Helper()
	c, err := load(t, text, change)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get[T any](t *testing.T, c *config.Config, path string) T {
	t.Helper()
	v, err := config.Get[T](c, path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func env(vars ...string) func(*config.Sources) {
	return func(s *config.Sources) { s.Environ = vars }
}

func args(a ...string) func(*config.Sources) {
	return func(s *config.Sources) { s.Args = a }
}
