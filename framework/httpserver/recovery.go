package httpserver

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"

	"go.uber.org/zap"
)

// recovered answers 500 for a handler that panics, unless it has begun to answer: then the connection is
// closed, so that the client does not take half an answer for a whole one. While leaving says so, answers close their
// connections, too. The observer, if there is one, is told of all requests.
func recovered(h http.Handler, log *zap.Logger, leaving func() bool, observer Observer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := &watchedWriter{ResponseWriter: w, leaving: leaving}
		if observer != nil {
			begun := observer.Begin()
			defer func() { observer.End(r, cmp.Or(watched.status, http.StatusOK), begun) }()
		}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			watched.answers(http.StatusInternalServerError) // unless another one is on its way
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(http.ErrAbortHandler) // net/http's own word for it
			}
			log.Error("an HTTP handler panicked", zap.String("method", r.Method), zap.String("path", r.URL.Path),
				zap.String("panic", fmt.Sprint(p)), zap.String("stack", string(debug.Stack())))
			if watched.began {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, "internal error", http.StatusInternalServerError)
		}()
		h.ServeHTTP(watched, r)
		watched.begin() // net/http answers for a handler that wrote nothing
	})
}

// watchedWriter knows whether the answer has begun. It keeps what handlers look for in a writer: flushing, hijacking
// and copying from files.
type watchedWriter struct {
	http.ResponseWriter
	leaving func() bool
	began   bool
	status  int // of the answer; 0 until it is known
}

// answers notes the status, of which the first one counts.
func (w *watchedWriter) answers(status int) { w.status = cmp.Or(w.status, status) }

// Unwrap serves [http.ResponseController].
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin is called before the first byte of the answer.
func (w *watchedWriter) begin() {
	if !w.began && w.leaving() {
		w.Header().Set("Connection", "close")
	}
}

// WriteHeader begins the answer, unless it is a provisional one.
func (w *watchedWriter) WriteHeader(code int) {
	w.begin()
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		w.began = true
		w.answers(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write begins the answer.
func (w *watchedWriter) Write(b []byte) (int, error) {
	w.begin()
	w.began = true
	w.answers(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets the connection copy by itself where it can.
func (w *watchedWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	w.began = true
	w.answers(http.StatusOK)
	return io.Copy(w.ResponseWriter, r)
}

// Flush begins the answer.
func (w *watchedWriter) Flush() {
	w.begin()
	w.began = true
	w.answers(http.StatusOK)
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a writer that cannot flush has nothing to flush
}

// Hijack takes the connection over.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.began = true
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("taking the connection over: %w", err)
	}
	w.answers(http.StatusSwitchingProtocols)
	return c, rw, nil
}
