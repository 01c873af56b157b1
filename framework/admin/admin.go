// Package admin mounts the handlers that operators and probes ask: liveness, readiness, metrics, log level,
// configuration, discovery and profiles, on one HTTP listener of its own. It knows nothing about what it serves: the
// handlers are given to it, and what is not given is not there.
//
// It listens on loopback unless configured otherwise. Where it is opened to a network, anybody there may ask for probes, metrics and
// discovery; settings and profiles are shown, and log levels changed, only for this machine and for who has a client certificate.
package admin

import (
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/http/pprof"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/httpserver"
)

// Config is the part of the admin listener that an operator may change. All of it needs a restart.
type Config struct {
	// Enabled starts the listener. Default true.
	Enabled bool `config:"enabled"`
	// Listen is the host:port to listen on. Default "127.0.0.1:9001", which only the same machine reaches; ":9001"
	// opens it to probes and scrapers, and to everybody else on that network: see Remote.
	Listen string `config:"listen"`
	// Remote answers everything to everybody who reaches the listener. Default false: settings and profiles are shown, and log
	// levels changed, only for requests of this machine, such as those of kubectl port-forward, and for those with a client
	// certificate that tls.client_ca has signed.
	Remote bool `config:"remote"`
	// TLS names certificate files; empty is plaintext. Default: empty.
	TLS httpserver.TLSConfig `config:"tls"`
	// Pprof serves profiles under /debug/pprof/. They cost nothing until they are asked for, and show memory contents
	// to whoever asks. Default true.
	Pprof bool `config:"pprof"`
}

// DefaultConfig returns the defaults named at each field.
func DefaultConfig() Config { return Config{Enabled: true, Listen: "127.0.0.1:9001", Pprof: true} }

// Validate reports the first field that makes no sense; the error starts with its key.
func (c Config) Validate() error { return c.http().Validate() }

func (c Config) http() httpserver.Config {
	h := httpserver.DefaultConfig(c.Listen)
	h.TLS = c.TLS
	h.MaxBodyBytes = 64 << 10
	return h
}

func (c Config) handler(h Handlers) http.Handler {
	if c.Remote {
		return Handler(h, c.Pprof)
	}
	return guarded(Handler(h, c.Pprof))
}

// Handlers are what is mounted; a nil one is left out.
type Handlers struct {
	// Ready answers /readyz.
	Ready http.Handler
	// Metrics answers /metrics.
	Metrics http.Handler
	// LogLevel answers /log/level: GET to read, PUT to change.
	LogLevel http.Handler
	// Config answers /debug/config. It must redact secrets.
	Config http.Handler
	// Discovery answers /debug/discovery; the index page says that it takes format=text and format=json.
	Discovery http.Handler
}

// page is one line of the index.
type page struct {
	Path, What string
}

// New returns the listener with everything mounted; it does nothing before [httpserver.Server.Listen] and
// [httpserver.Server.Start]. Config.Enabled is for the caller to look at. Log may be nil.
func New(cfg Config, h Handlers, log *zap.Logger, opts ...httpserver.Option) (*httpserver.Server, error) {
	s, err := httpserver.New(cfg.http(), cfg.handler(h), log, opts...)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return s, nil
}

// Handler returns the mounted handlers without a listener, and without [Config.Remote]: it answers whoever asks. Requests that
// change something are refused when a browser sends them from a page of another origin.
func Handler(h Handlers, profiles bool) http.Handler {
	mux := http.NewServeMux()
	pages := []page{{"/healthz", "answers ok while the process lives"}}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	for _, m := range []struct {
		page
		handler http.Handler
	}{
		{page{"/readyz", "ready for calls, and was it announced? each check with its error"}, h.Ready},
		{page{"/metrics", "metrics for Prometheus"}, h.Metrics},
		{page{"/log/level", "log level of all loggers and of single ones; PUT changes it, also for a while"}, h.LogLevel},
		{page{"/debug/config", "each setting, its value and where it came from"}, h.Config},
		{page{"/debug/discovery", "registration; each callee, its instances, why one is not used, how old that knowledge is; ?format=text for people, ?format=json for programs"}, h.Discovery},
	} {
		if m.handler == nil {
			continue
		}
		mux.Handle(m.Path, m.handler)
		pages = append(pages, m.page)
	}
	if profiles {
		mountProfiles(mux)
		pages = append(pages, page{"/debug/pprof/", "profiles of CPU, memory, goroutines"})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { index(w, pages) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		text(w, http.StatusNotFound, fmt.Sprintf("no page %q here; / lists what there is", r.URL.Path))
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

// mountProfiles does what importing net/http/pprof does to the default mux.
func mountProfiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

func text(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, line+"\n") // the peer has gone; nobody is left to tell
}

func index(w http.ResponseWriter, pages []page) {
	const source = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>admin</title></head>
<body><h1>admin</h1><dl>{{range .}}
<dt><a href="{{.Path}}">{{.Path}}</a></dt><dd>{{.What}}</dd>{{end}}
</dl></body></html>
`
	t, err := template.New("index").Parse(source)
	if err != nil {
		text(w, http.StatusInternalServerError, "internal error")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	_ = t.Execute(w, pages) // the peer has gone; nobody is left to tell
}
