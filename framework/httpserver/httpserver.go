// Package httpserver is one HTTP listener done right: bound before it serves, limited, with TLS from files, panics
// recovered, and a stop that is bounded and tells streaming handlers. It routes nothing: it is given one handler.
//
// A server is built by [New], binds in [Server.Listen], serves from [Server.Start] on and ends with [Server.Close].
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// ErrDraining is the cause of the end of a request's context when the server closes: [context.Cause] returns it.
var ErrDraining = errors.New("the server is draining")

const (
	// cutWait bounds the wait for handlers after connections were closed.
	cutWait = time.Second
	// freshGrace is how long a closing server lets connections bring their first request. net/http would wait five
	// seconds for those that say nothing.
	freshGrace = 500 * time.Millisecond
)

// Option supplies what only code can supply.
type Option interface{ apply(*Server) }

type optionFunc func(*Server)

func (f optionFunc) apply(s *Server) { f(s) }

// FallbackPort has [Server.Listen] take any free port of the same host when the configured one is busy, and log it.
// It is for development, where two copies of a service may run on one machine.
func FallbackPort() Option { return optionFunc(func(s *Server) { s.fallback = true }) }

// SoftDrain is how long [Server.Close] lets requests go on before it ends their contexts. Default: half of the time
// that Close is given.
func SoftDrain(d time.Duration) Option { return optionFunc(func(s *Server) { s.soft = d }) }

// Observer is told of every request, from the goroutine that handles it.
type Observer interface {
	// Begin is called before the handler; End gets back what it returns.
	Begin() time.Time
	// End is called after it, with the status of the answer: 500 for a panic, unless the answer had begun, and 101 for a
	// connection that was taken over. Of a [http.ServeMux] the request has the pattern.
	End(r *http.Request, status int, begun time.Time)
}

// Observe has o told of every request.
func Observe(o Observer) Option { return optionFunc(func(s *Server) { s.observer = o }) }

// Server is one HTTP listener. Its methods may be called from any goroutine.
type Server struct {
	config   Config
	log      *zap.Logger
	fallback bool
	soft     time.Duration // negative: half of the budget
	observer Observer      // nil: nobody is told of requests
	http     *http.Server
	cancel   context.CancelCauseFunc // ends the contexts of all requests

	inherited *os.File     // the listening socket to use; nil opens one
	yielded   atomic.Bool  // answers close their connections
	running   atomic.Int64 // handlers
	done      chan struct{}
	closeOnce sync.Once
	closed    chan struct{}
	closeErr  error

	mu       sync.Mutex
	listener net.Listener
	shared   *sharedListener // the listener, if it was inherited
	serve    *loop.Loop
	fresh    map[net.Conn]struct{} // connections that have brought no request yet
	closing  bool
	err      error
}

// New checks the configuration and returns a server that does nothing yet. Log may be nil.
func New(cfg Config, h http.Handler, log *zap.Logger, opts ...Option) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("making an HTTP server: %w", err)
	}
	if log == nil {
		log = zap.NewNop()
	}
	base, cancel := context.WithCancelCause(context.Background())
	s := &Server{config: cfg, log: log, soft: -1, cancel: cancel, fresh: map[net.Conn]struct{}{}, done: make(chan struct{}), closed: make(chan struct{})}
	for _, o := range opts {
		o.apply(s)
	}
	h = s.counted(recovered(h, log, s.yielded.Load, s.observer))
	if cfg.MaxBodyBytes > 0 {
		h = http.MaxBytesHandler(h, cfg.MaxBodyBytes) // outermost: it asks net/http's own writer to close the connection
	}
	s.http = &http.Server{
		Handler:           h,
		ConnState:         s.connState,
		ReadHeaderTimeout: cfg.ReadHeaderTimeout,
		ReadTimeout:       cfg.ReadTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          zap.NewStdLog(log.Named("http").WithOptions(zap.IncreaseLevel(zap.WarnLevel))),
	}
	return s, nil
}

// Listen binds the address, so that Addr is known and a busy port is an error before anything else happens, and reads
// the certificates. Connections wait until [Server.Start].
func (s *Server) Listen(ctx context.Context) error {
	conf, err := certs.Server(s.config.TLS, certs.LogTo(s.log), certs.NextProtos("h2", "http/1.1"))
	if err != nil {
		return fmt.Errorf("listening on %q: tls.%w", s.config.Listen, err)
	}
	l, err := s.bind(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil || s.closing {
		_ = l.Close()
		return errors.New("listening for HTTP: the server listens already or was closed; use a new one")
	}
	s.listener, s.http.TLSConfig = l, conf
	return nil
}

func (s *Server) bind(ctx context.Context) (net.Listener, error) {
	if s.inherited != nil {
		return s.inherit()
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.config.Listen)
	if s.fallback && errors.Is(err, syscall.EADDRINUSE) {
		host, _, splitErr := net.SplitHostPort(s.config.Listen)
		if splitErr != nil {
			return nil, splitErr // Validate has seen to it
		}
		l, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
		if err == nil {
			s.log.Warn("the HTTP port is busy, another one is used", zap.String("configured", s.config.Listen), zap.String("addr", l.Addr().String()))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listening for HTTP: %w; free the port or change the listen address", err)
	}
	return l, nil
}

// Addr is the address that is listened on, with the real port; empty before [Server.Listen].
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Start serves in the background. It does nothing but report an error if the server does not listen, serves already
// or was closed.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.listener == nil:
		return errors.New("starting the HTTP server: it does not listen; call Listen first")
	case s.serve != nil || s.closing:
		return errors.New("starting the HTTP server: it was started or closed before; use a new one")
	}
	l, serve := s.listener, s.http.Serve
	if s.http.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	s.serve = loop.Start(context.Background(), func(context.Context) {
		defer close(s.done)
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.mu.Lock()
			s.err = fmt.Errorf("serving HTTP on %q: %w", l.Addr(), err)
			s.mu.Unlock()
		}
	})
	return nil
}

// Done is closed when the server no longer accepts connections, for whatever reason. It is never closed if the server
// was neither started nor closed.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why serving ended by itself; nil while it serves and after a [Server.Close].
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close stops to accept connections and waits for requests in flight. After the soft part of the time (see
// [SoftDrain]) the contexts of requests end with [ErrDraining], which is what streaming handlers wait for; when ctx
// ends, connections are closed and the error says so. Later calls wait for the first one, until their ctx ends, and
// return its result.
func (s *Server) Close(ctx context.Context) error {
	first := false
	s.closeOnce.Do(func() { first = true })
	if !first {
		select {
		case <-s.closed:
			return s.closeErr
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(s.closed)
	s.closeErr = s.close(ctx)
	return s.closeErr
}

func (s *Server) close(ctx context.Context) error {
	defer s.cancel(ErrDraining)
	s.mu.Lock()
	s.closing = true
	l, serve := s.listener, s.serve
	s.mu.Unlock()
	if serve == nil {
		if l != nil {
			_ = l.Close()
		}
		close(s.done)
		return nil
	}
	soft := time.AfterFunc(s.softBudget(ctx), func() { s.cancel(ErrDraining) })
	defer soft.Stop()
	silent := time.AfterFunc(freshGrace, s.closeFresh)
	defer silent.Stop()
	err := s.http.Shutdown(ctx)
	if err == nil {
		return serve.Join(ctx)
	}
	// Out of time. http.Server.Close waits for no handler; they learn of it by their contexts.
	_ = s.http.Close()
	s.cancel(ErrDraining)
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutWait)
	defer cancel()
	_ = serve.Join(wait)
	s.idle(wait)
	return fmt.Errorf("closing the HTTP server on %q: requests were cut: %w; give the stop more time", l.Addr(), err)
}

func (s *Server) softBudget(ctx context.Context) time.Duration {
	if s.soft >= 0 {
		return s.soft
	}
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline) / 2
	}
	return 0 // nobody bounds this stop; streams would never end it
}

// counted keeps the number of handlers that are running.
func (s *Server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.running.Add(1)
		defer s.running.Add(-1)
		h.ServeHTTP(w, r)
	})
}

// idle waits until no handler is running or ctx ends.
func (s *Server) idle(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.running.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) connState(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.fresh[c] = struct{}{}
		return
	}
	delete(s.fresh, c)
}

func (s *Server) closeFresh() {
	s.mu.Lock()
	fresh := slices.Collect(maps.Keys(s.fresh))
	s.mu.Unlock()
	for _, c := range fresh {
		_ = c.Close()
	}
}
