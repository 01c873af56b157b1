package faulttest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

func TestWhoWritesAfterHeLeftIsAGhost(t *testing.T) {
	t.Parallel()
	const addr = "127.0.0.1:1000"
	for _, tt := range []struct {
		name  string
		tell  func(h *faulttest.History)
		ghost bool
	}{
		{"he writes again", func(h *faulttest.History) {
			h.Put(addr, "a", 5)
			h.Left(addr, 9)
			h.Put(addr, "a", 10)
		}, true},
		{"another one at his address", func(h *faulttest.History) {
			h.Put(addr, "a", 5)
			h.Left(addr, 9)
			h.Put(addr, "b", 10)
			h.Put(addr, "b", 11)
		}, false},
		{"he is at another address", func(h *faulttest.History) {
			h.Put(addr, "a", 5)
			h.Left("127.0.0.1:1001", 9)
			h.Put(addr, "a", 10)
		}, false},
		{"what he wrote before is read late", func(h *faulttest.History) {
			h.Left(addr, 9)
			h.Put(addr, "a", 5)
			h.Put(addr, "a", 9)
		}, false},
		{"he writes into an older copy", func(h *faulttest.History) {
			h.Put(addr, "a", 5)
			h.Left(addr, 9)
			h.SetBack()
			h.Put(addr, "a", 3)
		}, true},
		{"others write into an older copy", func(h *faulttest.History) {
			h.Put(addr, "a", 5)
			h.Left(addr, 9)
			h.Put(addr, "b", 10)
			h.SetBack()
			h.Put(addr, "b", 3)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := faulttest.NewHistory()
			h.Started(addr)
			h.Started(addr)
			tt.tell(h)
			err := h.Verdict()
			var v *faulttest.ViolationError
			if got := errors.As(err, &v) && v.Invariant == "I4"; got != tt.ghost {
				t.Errorf("the verdict is %v, want a ghost: %v", err, tt.ghost)
			}
		})
	}
}

func TestWhoWritesOverAnotherIsNoticed(t *testing.T) {
	t.Parallel()
	const addr = "127.0.0.1:1000"
	h := faulttest.NewHistory()
	h.Started(addr)
	h.Put(addr, "a", 5)
	h.Put(addr, "a", 6)
	if err := h.Verdict(); err != nil {
		t.Error(err)
	}
	h.Put(addr, "b", 7)
	if got := violated(h.Verdict()); got != "I5" {
		t.Errorf("somebody else wrote over a living server's key, and violated is %q", got)
	}
}

func TestMetricsOfEtcdAreRead(t *testing.T) {
	t.Parallel()
	s, err := faulttest.Metrics(strings.NewReader(`# HELP x y
etcd_debugging_mvcc_watcher_total 3
etcd_debugging_mvcc_watch_stream_total 2
grpc_server_msg_received_total{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1.5e+03
grpc_server_msg_received_total{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"} 7
something else
`))
	must(t, err)
	if s.Watchers != 3 || s.Streams != 2 || s.Requests["/etcdserverpb.KV/Range"] != 1500 || s.Requests["/etcdserverpb.Lease/LeaseKeepAlive"] != 7 || len(s.Requests) != 2 {
		t.Errorf("read was %+v", s)
	}
}

func TestSendersBetweenMembersAreKnown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"GET /raft/stream/message/9f HTTP/1.1\r\nHost: x\r\nX-Server-From: 84dbb7f882378d80\r\nX-Raft-To: 9f\r\n\r\n": "84dbb7f882378d80",
		"GET /version HTTP/1.1\r\nHost: x\r\n\r\n": "",
		"POST /raft HTTP/1.1\r\nX-Server-From: 84": "",
	} {
		if got := faulttest.RaftSender([]byte(text)); got != want {
			t.Errorf("the sender of %q is %q, want %q", text, got, want)
		}
	}
}

func TestASoakRefusesFaultsThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	lab := newLab(t)
	_, err := lab.Soak(t.Context(), faulttest.SoakOptions{Adapter: "newsvc", Faults: []string{"rain"}})
	if err == nil || !strings.Contains(err.Error(), `"rain"`) || !strings.Contains(err.Error(), faulttest.SoakFaults()[0]) {
		t.Errorf("the error is %v", err)
	}
	if _, err = lab.Soak(t.Context(), faulttest.SoakOptions{Adapter: "nobody"}); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("the error is %v", err)
	}
}
