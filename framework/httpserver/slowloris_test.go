package httpserver_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Who sends the head of a request a byte at a time is never silent and never done; many such clients would hold all that
// a server has.
func TestASlowLorisIsCutOff(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.ReadHeaderTimeout = 200 * time.Millisecond
	s := start(t, cfg, http.HandlerFunc(hello), nil)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	closed := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, conn); closed <- err }()
	head := "GET / HTTP/1.1\r\nHost: x\r\nX: "
	for i := 0; ; i++ {
		select {
		case err := <-closed:
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Error("the connection was never closed")
			}
			return
		case <-tick.C:
			b := byte('a')
			if i < len(head) {
				b = head[i]
			}
			_, _ = conn.Write([]byte{b}) // that it fails is what is waited for
		}
	}
}
