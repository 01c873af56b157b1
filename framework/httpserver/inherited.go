package httpserver

import (
	"fmt"
	"net"
	"os"
	"sync"
)

// Inherited has [Server.Listen] take over the listening socket f, which another process has opened and has passed on,
// perhaps to several: a program and its successor then share a port that is never closed. The address of the configuration
// is not listened on. Listen closes f, whatever happens.
func Inherited(f *os.File) Option { return optionFunc(func(s *Server) { s.inherited = f }) }

func (s *Server) inherit() (net.Listener, error) {
	l, err := net.FileListener(s.inherited)
	_ = s.inherited.Close() // the listener has a copy of its own
	if err != nil {
		return nil, fmt.Errorf("listening for HTTP on the inherited %s: %w; is it a listening socket?", s.inherited.Name(), err)
	}
	s.shared = &sharedListener{Listener: l, end: make(chan struct{})}
	return s.shared, nil
}

// Yield has each answer from now on close its connection, so that clients connect anew, elsewhere if somebody sends them there,
// before [Server.Close] closes what is idle and may meet a request on its way. New connections are left to the processes
// that have inherited the same listener; a server that did not inherit it takes them as before, as nobody else would.
func (s *Server) Yield() {
	s.yielded.Store(true)
	s.mu.Lock()
	l := s.shared
	s.mu.Unlock()
	if l != nil {
		l.yield()
	}
}

// sharedListener can stop to accept without an end of [net/http.Server.Serve], whose connections go on.
type sharedListener struct {
	net.Listener
	yieldOnce, endOnce sync.Once
	err                error // of closing the listener
	end                chan struct{}
}

// Accept returns the next connection; after yield there is none until Close.
func (l *sharedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		l.yield() // an error that lasts, or the end
		<-l.end
		return nil, err
	}
	return c, nil
}

func (l *sharedListener) yield() { l.yieldOnce.Do(func() { l.err = l.Listener.Close() }) }

// Close ends Accept.
func (l *sharedListener) Close() error {
	l.yield()
	l.endOnce.Do(func() { close(l.end) })
	return l.err
}
