package httpserver

import (
	"bufio"
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
// connections, too.
func recovered(h http.Handler, log *zap.Logger, leaving func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := &watchedWriter{ResponseWriter: w, leaving: leaving}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
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
}

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
	w.began = w.began || code >= http.StatusOK || code == http.StatusSwitchingProtocols
	w.ResponseWriter.WriteHeader(code)
}

// Write begins the answer.
func (w *watchedWriter) Write(b []byte) (int, error) {
	w.begin()
	w.began = true
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets the connection copy by itself where it can.
func (w *watchedWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	w.began = true
	return io.Copy(w.ResponseWriter, r)
}

// Flush begins the answer.
func (w *watchedWriter) Flush() {
	w.begin()
	w.began = true
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a writer that cannot flush has nothing to flush
}

// Hijack takes the connection over.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.began = true
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("taking the connection over: %w", err)
	}
	return c, rw, nil
}
