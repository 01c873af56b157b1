package dev

import (
	"errors"
	"testing"

	"github.com/newsvc/newsvc/framework/stack"
)

func TestTheLastOnesThatServedAndDiedAreRemembered(t *testing.T) {
	t.Parallel()
	s := &slot{}
	died := func(pid int, served bool, err error) {
		p := &process{pid: pid, err: err, up: make(chan struct{}), info: stack.Ready{GRPC: "127.0.0.1:1"}}
		if served {
			close(p.up)
		}
		s.mourn(p)
	}
	killed := errors.New("signal: killed")
	died(1, false, killed) // never registered
	died(2, true, nil)     // left in order
	if got := s.dead(); len(got) != 0 {
		t.Errorf("it remembers %+v", got)
	}
	for pid := range mostGone + 1 {
		died(10+pid, true, killed)
	}
	got := s.dead()
	if len(got) != mostGone || got[0].PID != 11 || got[mostGone-1].PID != 10+mostGone || got[0].How != "signal: killed" || got[0].GRPC != "127.0.0.1:1" {
		t.Errorf("it remembers %+v", got)
	}
}
