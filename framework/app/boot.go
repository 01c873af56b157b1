package app

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"

	"go.uber.org/fx"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/closers"
	"github.com/newsvc/newsvc/framework/stack"
)

// Environment is everything an app takes from the process around it. [Run] fills it from the process; tests make one up
// and supply it to Fx.
type Environment struct {
	// Sources is where the configuration is read.
	Sources config.Sources
	// Process is what else the environment says.
	Process stack.Process
	// Replace puts other parts in the place of the real ones.
	Replace stack.Replace
	// Version is the service's own version.
	Version string
	// Log is where the log is written.
	Log zapcore.WriteSyncer
	// Stdout takes the answers of Introspect.
	Stdout io.Writer
	// Introspect is NEWSVC_INTROSPECT: what to print instead of starting. Empty starts.
	Introspect string
}

// boot is what is known before the first constructor of the service runs.
type boot struct {
	service  string
	env      *Environment
	settings *config.Config
	config   stack.Config
	callees  []string
	serves   bool
	log      *zap.Logger
	level    zap.AtomicLevel
	closers  closers.Set

	mu     sync.Mutex
	failed error
}

type bootParams struct {
	fx.In
	Env          *Environment  `optional:"true"`
	Declarations []declaration `group:"newsvc.declarations"`
	Dot          fx.DotGraph
	Events       *events `optional:"true"`
}

// errAnswered ends the start after a question was answered.
var errAnswered = errors.New("the question was answered")

func newBoot(service string, p bootParams) (*boot, error) {
	b := &boot{service: service, env: p.Env}
	if b.env == nil {
		b.env = processEnvironment(service)
	}
	sections := b.declared(p.Declarations)
	var err error
	if b.settings, err = config.Load(b.env.Sources, sections...); err != nil {
		return nil, err
	}
	if b.config, err = stack.ReadConfig(b.settings, b.callees); err != nil {
		return nil, err
	}
	if b.env.Introspect != "" {
		return nil, b.answer(string(p.Dot))
	}
	b.log, b.level, err = stack.NewLog(b.config, service, b.env.Process.Dev, b.env.Log)
	if err != nil {
		return nil, err
	}
	if p.Events != nil {
		p.Events.use(b.log)
	}
	return b, nil
}

// answer prints what NEWSVC_INTROSPECT asks for; its error is errAnswered when that worked.
func (b *boot) answer(dot string) error {
	q := stack.Question{Ask: b.env.Introspect, Service: b.service, Settings: b.settings, Callees: b.callees, Serves: b.serves, Dot: dot}
	out, err := q.Answer()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(b.env.Stdout)
	enc.SetIndent("", "  ")
	return errors.Join(errAnswered, enc.Encode(out))
}

// declared collects callees and sections from the service's options.
func (b *boot) declared(all []declaration) []config.Section {
	var own []config.Section
	for _, d := range all {
		b.serves = b.serves || d.serves
		if d.callee != "" {
			b.callees = append(b.callees, d.callee)
		}
		if d.section != nil {
			own = append(own, *d.section)
		}
	}
	slices.Sort(b.callees)
	b.callees = slices.Compact(b.callees)
	return append(stack.Sections(b.callees), own...)
}

// fail remembers the first reason to exit with a status other than 0.
func (b *boot) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil {
		b.failed = err
	}
}

func (b *boot) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}
