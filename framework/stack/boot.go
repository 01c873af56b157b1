package stack

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/config"
)

// Declaration is what is said of a service before anything is built: its configuration is loaded from all declarations
// together, so that every section and every callee is validated before the first constructor runs.
type Declaration struct {
	// Section is a section of the service's own, or nil.
	Section *config.Section
	// Callee is a service that is called, or "".
	Callee string
	// Serves says that a gRPC service is offered.
	Serves bool
	// HTTP says that a handler for the listener of the section "http" is offered.
	HTTP bool
}

// Boot is what is known before the first constructor of a service runs.
type Boot struct {
	Service string
	Env     *Environment
	Live    *Live
	Config  Config
	Callees []string
	Serves  bool
	HTTP    bool
	Log     *zap.Logger
	Levels  *Levels
}

// ErrAnswered is the error of [NewBoot] after the question in NEWSVC_INTROSPECT was answered: nothing is to be started.
var ErrAnswered = errors.New("the question was answered")

// NewBoot loads the configuration and makes the log. env may be nil for the process' own. dot is the graph of constructors. A
// question in NEWSVC_INTROSPECT is answered from what lies in this process and its files: etcd is not asked.
func NewBoot(ctx context.Context, service string, env *Environment, declared []Declaration, dot string) (*Boot, error) {
	if env == nil {
		env = FromProcess(service)
	}
	b := &Boot{Service: service, Env: env.Filled()}
	own := b.take(declared)
	var err error
	if b.Env.Introspect != "" {
		q := Question{Ask: b.Env.Introspect, Service: service, Callees: b.Callees, Serves: b.Serves, HTTP: b.HTTP, Dot: dot, Own: own}
		if q.Ask != questionSchema { // which needs no valid configuration
			if q.Settings, _, err = LoadConfig(b.Env.Sources, b.Callees, own...); err != nil {
				return nil, err
			}
		}
		if err := q.Print(b.Env.Stdout); err != nil {
			return nil, err
		}
		return nil, ErrAnswered
	}
	if b.Live, b.Config, err = OpenConfig(ctx, b.Env.Sources, b.Callees, own...); err != nil {
		return nil, err
	}
	b.Log, b.Levels, err = NewLog(b.Config, service, b.Env.Process.Dev, b.Env.Log)
	return b, err
}

// take collects what is declared; it returns the service's own sections.
func (b *Boot) take(declared []Declaration) (own []config.Section) {
	for _, d := range declared {
		b.Serves = b.Serves || d.Serves
		b.HTTP = b.HTTP || d.HTTP
		if d.Callee != "" {
			b.Callees = append(b.Callees, d.Callee)
		}
		if d.Section != nil {
			own = append(own, *d.Section)
		}
	}
	slices.Sort(b.Callees)
	b.Callees = slices.Compact(b.Callees)
	return own
}

// New assembles the service that was booted.
func (b *Boot) New(opts []ServerOption, failed func(error)) (*Stack, error) {
	return New(Params{
		Service: b.Service, Version: b.Env.Version, Config: b.Config, Live: b.Live, Callees: b.Callees, Serves: b.Serves,
		ServerOptions: opts, Log: b.Log, Levels: b.Levels, Process: b.Env.Process, Replace: b.Env.Replace, Failed: failed,
	})
}
