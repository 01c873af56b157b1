package locate

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/stack"
)

// own is what the configuration of a service says.
type own struct {
	service   string
	etcd      etcdclient.Config
	discovery stack.DiscoveryConfig
	from      string // where the first key of the section etcd is set; empty when none is
}

// how names the file, with the line, that says where etcd is.
func (o own) how() string {
	from := o.from
	if from == "" {
		from = "the defaults"
	}
	return from + " of " + o.service
}

// settings reads the sections etcd and discovery of the service that a command runs in, in all their layers: files,
// environment, defaults. Outside of a service the defaults hold.
func (f Flags) settings(p Place) (own, error) {
	o := own{service: p.Service, etcd: etcdclient.DefaultConfig(), discovery: stack.DefaultDiscoveryConfig()}
	if p.Service == "" {
		return o, nil
	}
	cfg, err := p.Load([]string{"etcd", "discovery"}, config.Section{Path: "etcd", Defaults: o.etcd}, config.Section{Path: "discovery", Defaults: o.discovery})
	if err != nil {
		return o, err
	}
	if o.etcd, err = config.Get[etcdclient.Config](cfg, "etcd"); err != nil {
		return o, err
	}
	if o.discovery, err = config.Get[stack.DiscoveryConfig](cfg, "discovery"); err != nil {
		return o, err
	}
	for _, v := range cfg.Values() {
		if strings.HasPrefix(v.Key, "etcd.") && v.Source != "default" && (o.from == "" || v.Key == "etcd.endpoints") {
			o.from = v.Source
		}
	}
	for _, file := range []*string{&o.etcd.TLS.CA, &o.etcd.TLS.Cert, &o.etcd.TLS.Key} {
		*file = below(p.Dir, *file)
	}
	return o, nil
}

// Load reads sections of the configuration of the service that a command runs in, as the service itself would in its
// directory and in the environment that was asked for; other sections are not looked at. Outside of a service the defaults
// hold. Problems outside of paths are passed over.
// The error is a [*problem.Error] with the position.
func (p Place) Load(paths []string, sections ...config.Section) (*config.Config, error) {
	src := config.Sources{Service: p.Service, Dir: p.Dir, Environ: os.Environ(), NoFile: p.Service == ""}
	if p.Env != "" {
		src.Args = []string{"--env", p.Env}
	}
	cfg, err := config.LoadOnly(src, paths, sections...)
	if err != nil {
		return nil, &problem.Error{
			Exit: problem.Environment, What: "cannot read the configuration of " + p.Service, At: p.Dir + ": " + strings.TrimSpace(err.Error()),
			Fix: "correct it, or run the command outside of the service: -C /", Err: err,
		}
	}
	return cfg, nil
}

// below makes the name of a file absolute, as the service in dir reads it.
func below(dir, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}
