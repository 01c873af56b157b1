package freeport_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/newsvc/newsvc/framework/internal/freeport"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 20 {
		addr, err := freeport.Choose(t.Context(), "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, port, err := net.SplitHostPort(addr); err != nil {
			t.Error(err)
		} else if n, err := strconv.Atoi(port); err != nil || n < 24000 || n >= 32000 {
			t.Errorf("port %q, %v: systems may give it to anybody", port, err)
		}
		if seen[addr] {
			t.Errorf("%s was chosen twice although somebody listens there", addr)
		}
		seen[addr] = true
	}
}

func TestAHostThatIsNotOurs(t *testing.T) {
	t.Parallel()
	if addr, err := freeport.Choose(t.Context(), "192.0.2.1"); err == nil {
		t.Errorf("chose %s", addr)
	}
}
