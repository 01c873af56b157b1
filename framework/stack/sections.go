package stack

import (
	"errors"
	"fmt"

	"github.com/newsvc/newsvc/framework/admin"
	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/httpserver"
	"github.com/newsvc/newsvc/framework/logging"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/telemetry"
)

// Config is the framework's part of a service's configuration, a field for each top-level section.
type Config struct {
	App          AppConfig
	Log          logging.Config
	Telemetry    telemetry.Config
	Admin        admin.Config
	Etcd         etcdclient.Config
	Discovery    DiscoveryConfig
	Registration RegistrationConfig
	Server       server.Config
	HTTP         httpserver.Config
	Auth         auth.Config
	// ClientDefaults is clients.defaults, Clients one policy for each callee.
	ClientDefaults client.Policy
	Clients        map[string]client.Policy
}

// DefaultConfig returns what applies where nothing is configured.
func DefaultConfig() Config {
	return Config{
		App: DefaultAppConfig(), Log: logging.DefaultConfig(), Telemetry: telemetry.DefaultConfig(),
		Admin: admin.DefaultConfig(), Etcd: etcdclient.DefaultConfig(), Discovery: DefaultDiscoveryConfig(),
		Registration: DefaultRegistrationConfig(), Server: server.DefaultConfig(), HTTP: httpserver.DefaultConfig(":8080"), Auth: auth.DefaultConfig(),
		ClientDefaults: client.DefaultPolicy(), Clients: map[string]client.Policy{},
	}
}

const clientDefaults = "clients.defaults"

// Sections declares the framework's sections for [config.Load], with one for each callee.
func Sections(callees []string) []config.Section {
	d := DefaultConfig()
	all := []config.Section{
		{Path: "app", Defaults: d.App},
		{Path: "log", Defaults: d.Log},
		{Path: "telemetry", Defaults: d.Telemetry},
		{Path: "admin", Defaults: d.Admin},
		{Path: "etcd", Defaults: d.Etcd},
		{Path: "discovery", Defaults: d.Discovery},
		{Path: "registration", Defaults: d.Registration},
		{Path: "server", Defaults: d.Server},
		{Path: "http", Defaults: d.HTTP},
		{Path: "auth", Defaults: d.Auth},
		{Path: clientDefaults, Defaults: d.ClientDefaults},
	}
	for _, callee := range callees {
		all = append(all, config.Section{Path: "clients." + callee, Defaults: d.ClientDefaults, Inherits: clientDefaults})
	}
	return all
}

// ReadConfig takes the framework's sections out of a configuration that was loaded with them.
func ReadConfig(c *config.Config, callees []string) (Config, error) {
	var out Config
	var err error
	read(c, "app", &out.App, &err)
	read(c, "log", &out.Log, &err)
	read(c, "telemetry", &out.Telemetry, &err)
	read(c, "admin", &out.Admin, &err)
	read(c, "etcd", &out.Etcd, &err)
	read(c, "discovery", &out.Discovery, &err)
	read(c, "registration", &out.Registration, &err)
	read(c, "server", &out.Server, &err)
	read(c, "http", &out.HTTP, &err)
	read(c, "auth", &out.Auth, &err)
	read(c, clientDefaults, &out.ClientDefaults, &err)
	out.Clients = make(map[string]client.Policy, len(callees))
	for _, callee := range callees {
		var p client.Policy
		read(c, "clients."+callee, &p, &err)
		out.Clients[callee] = p
	}
	return out, err
}

// LoadConfig loads the framework's sections together with a service's own, and reads the former.
func LoadConfig(src config.Sources, callees []string, own ...config.Section) (*config.Config, Config, error) {
	settings, err := config.Load(src, append(Sections(callees), own...)...)
	if err != nil {
		return nil, Config{}, err
	}
	c, err := ReadConfig(settings, callees)
	return settings, c, err
}

// CheckSection tells whether a section can be declared: its name, whose it is, and the type of its defaults.
func CheckSection(path string, defaults any) error {
	if Reserved(path) {
		return fmt.Errorf("section %q is the framework's own; choose another name", path)
	}
	return declarable(config.Section{Path: path, Defaults: defaults})
}

// CheckCallee tells whether a service of this name can be called.
func CheckCallee(callee string) error {
	err := declarable(config.Section{Path: "clients." + callee, Defaults: client.DefaultPolicy()})
	if name := discovery.CheckService(callee); err != nil && name != nil {
		return name // which says what a callee may be called, rather than a section
	}
	return err
}

// declarable loads a section from nothing. Values that its defaults lack are no mistake: files and environment bring
// them.
func declarable(section config.Section) error {
	_, err := config.Load(config.Sources{NoFile: true}, section)
	if errors.As(err, new(*config.Error)) {
		return nil
	}
	return err
}

// read keeps the first error, so that ReadConfig is a list rather than a staircase.
func read[T any](c *config.Config, path string, into *T, err *error) {
	if *err == nil {
		*into, *err = config.Get[T](c, path)
	}
}

// Reserved reports whether a top-level section name is the framework's own and closed to services.
func Reserved(section string) bool {
	switch section {
	case "app", "log", "telemetry", "admin", "etcd", "discovery", "registration", "server", "http", "clients", "auth", "gateway":
		return true
	}
	return false
}
