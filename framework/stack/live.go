package stack

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/config/etcdsource"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/logging"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/telemetry"
)

// Live is a service's configuration that stays current while the service runs. [OpenConfig] makes it; a [Stack] that is given it
// follows files, etcd and [config.Reloader.Kick], and hands changes on.
type Live struct {
	*config.Reloader
	etcd    *etcdsource.Source // nil without app.config_prefix
	started string             // why the start was not from what etcd holds; empty when it was
}

// OpenConfig is [LoadConfig] with the layer of app.config_prefix, if that is set: it asks etcd, for three seconds at most, and takes
// the copy in discovery.cache_dir when etcd does not answer, or holds settings that are no good. ctx ends the wait.
func OpenConfig(ctx context.Context, src config.Sources, callees []string, own ...config.Section) (*Live, Config, error) {
	sections := append(Sections(callees), own...)
	early, err := config.LoadOnly(src, []string{"app", "etcd", "discovery"}, sections...)
	if err != nil {
		if _, all := config.Load(src, sections...); all != nil {
			err = all // with the problems elsewhere
		}
		return nil, Config{}, err
	}
	live := &Live{}
	var refused error
	if err := live.readEtcd(ctx, early, &src); err != nil {
		return nil, Config{}, err
	}
	settings, err := config.Load(src, sections...)
	if err != nil && live.etcd != nil && !live.etcd.State().FromCopy {
		if c, ok := live.etcd.Copy(); ok {
			with := src
			with.Layers = append(src.Layers[:len(src.Layers)-1:len(src.Layers)-1], c)
			if old, oldErr := config.Load(with, sections...); oldErr == nil {
				refused, settings, src, err = err, old, with, nil
			}
		}
	}
	if err != nil {
		return nil, Config{}, err
	}
	live.Reloader = config.NewReloader(settings, src, sections...)
	if refused != nil {
		live.Refuse(refused)
		live.started = "etcd holds settings that can't be used; those of the copy are in force"
	}
	c, err := ReadConfig(settings, callees)
	return live, c, err
}

// readEtcd adds the layer of app.config_prefix. The client is one for this moment: the process' own has a log, whose level may
// stand in etcd.
func (l *Live) readEtcd(ctx context.Context, early *config.Config, src *config.Sources) error {
	var app AppConfig
	var etcd etcdclient.Config
	var disc DiscoveryConfig
	var err error
	read(early, "app", &app, &err)
	read(early, "etcd", &etcd, &err)
	read(early, "discovery", &disc, &err)
	if err != nil || app.ConfigPrefix == "" {
		return err
	}
	if err := beside(app.ConfigPrefix, disc.Prefix, src.Service); err != nil {
		return err
	}
	l.etcd, err = etcdsource.New(etcdsource.Options{
		Prefix: app.ConfigPrefix, Service: src.Service, Dir: disc.CacheDir, CallTimeout: etcd.CallTimeout,
	})
	if err != nil {
		return fmt.Errorf("app.config_prefix: %w", err)
	}
	cli, err := etcdclient.New(etcd, nil)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer func() { _ = cli.Close() }() // nothing was written
	layer, err := l.etcd.First(ctx, cli)
	if err != nil {
		return err
	}
	switch st := l.etcd.State(); {
	case len(st.Held) > 0 && st.Err == nil:
		l.started = fmt.Sprintf("etcd has lost settings that the copy holds; those are in force (%s): %s", strings.Join(st.Held, ", "), etcdsource.HeldHint)
	case st.FromCopy:
		l.started = "the settings in etcd can't be read; those of the copy are in force"
	}
	src.Layers = append(src.Layers[:len(src.Layers):len(src.Layers)], layer)
	return nil
}

// beside refuses a prefix of settings that lies within one of services or of leaders, or the other way round: those who may write
// there are not those who configure, and each would take the other's keys for its own.
func beside(prefix, services, service string) error {
	for _, other := range []struct{ prefix, what string }{
		{services, "discovery.prefix"}, {coordinationPrefix(services), "where leaders and locks are kept,"},
	} {
		if strings.HasPrefix(prefix+"/", other.prefix+"/") || strings.HasPrefix(other.prefix+"/", prefix+"/") {
			return fmt.Errorf("app.config_prefix: %q and %s %q lie within each other; choose one beside it, for example \"/newsvc/config/%s\"",
				prefix, other.what, other.prefix, service)
		}
	}
	return nil
}

// Settings is the configuration in force at this moment; nil when the stack was made without any.
func (s *Stack) Settings() *config.Config {
	if s.p.Live != nil {
		return s.p.Live.Current()
	}
	return s.p.Settings
}

// Reload has the configuration read again soon, as app.sighup: reload does. Without Params.Live it does nothing.
func (s *Stack) Reload() {
	if s.p.Live != nil {
		s.p.Live.Kick()
	}
}

// buildReload says who takes over what. A key that is tagged but whose section nobody takes over counts as one that needs a restart.
func (s *Stack) buildReload() error {
	live := s.p.Live
	if live == nil {
		return nil
	}
	levels := s.levels
	if levels == nil { // without the admin server nobody asks for other levels
		levels = logging.NewLevelHandler(s.p.Levels, s.log.Named("log"))
	}
	taking(live, "log", func(_, next logging.Config) error { return levels.Configure(next) })
	taking(live, "telemetry", func(_, next telemetry.Config) error {
		return s.telemetry.SetSampleRatio(next.Traces.SampleRatio)
	})
	if s.server != nil {
		taking(live, "server", func(_, next server.Config) error { return s.server.SetAccessLog(next.AccessLog) })
	}
	taking(live, clientDefaults, func(_, next client.Policy) error { return s.clients.UpdateDefault(next) })
	for _, callee := range s.p.Callees {
		taking(live, "clients."+callee, func(_, next client.Policy) error { return s.clients.Update(callee, next) })
	}
	return s.telemetry.Registerer().Register(newConfigMetrics(live))
}

// taking names what takes over a section, typed.
func taking[C any](live *Live, section string, apply func(old, next C) error) {
	live.Apply(section, func(_ context.Context, old, next *config.Config) error {
		was, err := config.Get[C](old, section)
		if err != nil {
			return err
		}
		is, err := config.Get[C](next, section)
		if err != nil {
			return err
		}
		return apply(was, is)
	})
}

// OnReload has apply called with the old and the new value of a section of the service's own, each time a key of it that is tagged
// as one which needs no restart has changed: for how long it may take and what its error does, see [config.Reloader.Apply]. Call it
// before Connect. Without Params.Live nothing ever changes.
func OnReload[C any](s *Stack, section string, apply func(old, next C) error) error {
	if s.p.Live == nil {
		return nil
	}
	if _, err := config.Get[C](s.p.Live.Current(), section); err != nil {
		return err
	}
	if !s.p.Live.Current().Reloads(section) {
		return fmt.Errorf("no key of section %q takes effect without a restart; tag those that may change with `reload:\"live\"`", section)
	}
	taking(s.p.Live, section, apply)
	return nil
}

// startReload follows the sources until the stop begins.
func (s *Stack) startReload(ctx context.Context) {
	live := s.p.Live
	if live == nil {
		return
	}
	log := s.log.Named("config")
	if live.started != "" {
		log.Warn(live.started, zap.Error(errors.Join(live.State().Refused, live.etcd.State().Err)))
	}
	if live.etcd != nil {
		live.etcd.SetLog(log)
		s.keepCopy(log, live.Layers())
		s.watch.Start(ctx, func(ctx context.Context) { live.etcd.Watch(ctx, s.etcd, live.SetLayer) })
	}
	before := live.State()
	s.watch.Start(ctx, func(ctx context.Context) {
		live.Run(ctx, s.p.Config.App.ConfigPoll, func(out config.Outcome) {
			tellReload(log, before, out)
			before = out.State
			if out.State.Refused == nil && len(out.State.Failed) == 0 { // what a callback refuses must not come back at the next start
				s.keepCopy(log, out.Layers)
			}
		})
	})
}

// keepCopy keeps the layer of etcd, which has just proven good, for a start without etcd.
func (s *Stack) keepCopy(log *zap.Logger, layers []config.Layer) {
	live := s.p.Live
	if live.etcd == nil || live.State().Refused != nil {
		return
	}
	for _, l := range layers {
		if err := live.etcd.Keep(l); err != nil {
			log.Warn("no copy of the configuration can be kept", zap.Error(err))
		}
	}
}

// tellReload logs what changed and, on each transition, what can't.
func tellReload(log *zap.Logger, before config.State, out config.Outcome) {
	now := out.State
	switch {
	case now.Refused != nil && (before.Refused == nil || before.Refused.Error() != now.Refused.Error()):
		log.Warn("the new configuration is refused as a whole; the one before stays in force", zap.Error(now.Refused))
	case now.Refused == nil && before.Refused != nil:
		log.Info("the configuration can be used again")
	}
	if now.Refused != nil {
		return
	}
	if len(out.Applied) > 0 {
		log.Info("configuration reloaded", zap.Stringers("changes", out.Applied))
	}
	for section, err := range now.Failed {
		if was := before.Failed[section]; was == nil || was.Error() != err.Error() {
			log.Warn("a section keeps its old values: they were refused", zap.String("section", section), zap.Error(err))
		}
	}
	if waiting := keysOf(now.Pending); waiting != "" && waiting != keysOf(before.Pending) {
		log.Warn("needs a restart: "+waiting, zap.Stringers("changes", now.Pending))
	}
}

func keysOf(changes []config.Change) string {
	keys := make([]string, 0, len(changes))
	for _, c := range changes {
		keys = append(keys, c.Key)
	}
	return strings.Join(keys, ", ")
}

// configPage is what /debug/config tells of etcd.
func (l *Live) configPage() map[string]any {
	if l.etcd == nil {
		return nil
	}
	st := l.etcd.State()
	page := map[string]any{
		"prefix": st.Prefix, "keys": st.Keys, "revision": st.Revision, "as_of": st.AsOf, "from_copy": st.FromCopy, "held": append([]string{}, st.Held...),
	}
	if st.Err != nil {
		page["error"] = st.Err.Error()
	}
	return map[string]any{"etcd": page}
}
