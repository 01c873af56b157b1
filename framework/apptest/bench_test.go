package apptest_test

import (
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/apptest"
)

// BenchmarkStart is what a test of a service with one fake pays: start, one call, stop.
func BenchmarkStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		t := &scope{TB: b}
		apps := apptest.Start(t, fake("last-service"), relayService())
		if _, err := testpb.NewTestServiceClient(apps.Conn("relay-service")).UnaryCall(b.Context(), &testpb.SimpleRequest{}); err != nil {
			b.Fatal(err)
		}
		t.end()
	}
}

// scope is a test within a benchmark.
type scope struct {
	testing.TB
	over []func()
}

func (s *scope) Cleanup(f func()) { s.over = append(s.over, f) }

func (s *scope) end() {
	for i := range s.over {
		s.over[len(s.over)-1-i]()
	}
}
