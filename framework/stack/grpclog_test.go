package stack_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/stack"
)

// gRPC goes on telling that etcd can't be reached, a line a minute, beside the one line of whoever waits for it.
func TestWhatGRPCsOwnLogRepeatsIsDropped(t *testing.T) {
	t.Parallel()
	failed := func(a resolver.Address) string {
		return fmt.Sprintf("[core] [Channel #1 SubChannel #2] grpc: addrConn.createTransport failed to connect to %s. Err: %v", a, "connection refused")
	}
	for text, dropped := range map[string]bool{
		failed(resolver.Address{Addr: "127.0.0.1:2379", ServerName: "127.0.0.1:2379"}):                           true,  // etcd
		failed(resolver.Address{Addr: "10.0.0.1:9000", ServerName: "user-service"}):                              false, // a callee with TLS
		failed(resolver.Address{Addr: "10.0.0.1:9000"}):                                                          false,
		"[core] [Channel #3] ccResolverWrapper: reporting error to cc: no instances of \"user-service\" in etcd": true,
		"[transport] [server-transport 0xc] Closing: EOF":                                                        false,
	} {
		if stack.ToldElsewhere(text) != dropped {
			t.Errorf("dropped = %v: %s", !dropped, text)
		}
	}
}
