// Package interop_test runs gRPC's own interoperability suite, google.golang.org/grpc/interop, through a service of ours:
// a server with its whole default chain and a connection of the client factory, both assembled by package stack, over
// TCP in plaintext and with mutual TLS. It holds tests only.
//
// Cases of https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md that are not run, and why:
// compute_engine_creds, service_account_creds, jwt_token_creds, per_rpc_creds, oauth2_auth_token,
// google_default_credentials and compute_engine_channel_credentials need Google's credentials; orca_per_rpc and orca_oob
// need a balancer of the suite's own in the client; cacheable_unary needs a caching proxy, and gRPC for Go does not know
// such calls; what concerns xDS and ALTS needs their control planes.
package interop_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"

	"github.com/newsvc/newsvc/framework/logging"
)

func TestMain(m *testing.M) {
	// The suite reports a failed case as a fatal log entry, after which gRPC would end the process.
	grpclog.SetLoggerV2(verdicts{logging.GRPC(zap.NewNop()).(grpclog.DepthLoggerV2)})
	goleak.VerifyTestMain(m)
}

// verdicts is a logger of gRPC whose fatal entries are panics, which [outcome] turns into errors.
type verdicts struct{ grpclog.DepthLoggerV2 }

// verdict is what the suite says of a case that failed.
type verdict string

func (verdicts) Fatal(args ...any)             { panic(verdict(fmt.Sprint(args...))) }
func (verdicts) Fatalln(args ...any)           { panic(verdict(fmt.Sprintln(args...))) }
func (verdicts) Fatalf(f string, args ...any)  { panic(verdict(fmt.Sprintf(f, args...))) }
func (verdicts) FatalDepth(_ int, args ...any) { panic(verdict(fmt.Sprintln(args...))) }

// outcome runs a case of the suite in this goroutine and returns nil when it passes.
func outcome(run func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			said, ok := p.(verdict)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("the suite says: %s", said)
		}
	}()
	run()
	return nil
}
