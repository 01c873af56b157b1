package stack_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/gateway"
	"github.com/newsvc/newsvc/framework/stack"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
	"github.com/newsvc/newsvc/proto/user/v1/userv1gw"
)

// What a gateway answers is read by strangers, and what a service answers by services that know nothing of its registry.
func TestStrangersAreNotToldOfTheRegistry(t *testing.T) {
	t.Parallel()
	etcd := realEtcd(t)
	dead := reserved(t)
	put(t, etcd, "dead-service", discovery.StateUp, dead)
	for callee, wait := range map[string]bool{service: true, "user-servise": false, "dead-service": true} {
		t.Run(callee, func(t *testing.T) {
			t.Parallel()
			caller := callerOf(t, etcd, callee, func(p *stack.Params) { p.Config.ClientDefaults.WaitForReady = wait })
			conn, err := caller.Clients().Conn(callee)
			if err != nil {
				t.Fatal(err)
			}
			h, err := gateway.New(gateway.Params{Routes: []gateway.Route{func(ctx context.Context, mux *runtime.ServeMux) error {
				return userv1gw.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn))
			}}})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first one may come before etcd has answered
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/users/1", http.NoBody))
				if w.Code != http.StatusServiceUnavailable && w.Code != http.StatusGatewayTimeout {
					t.Errorf("status %d: %s", w.Code, w.Body)
				}
				for _, secret := range append(etcd.Endpoints(), discovery.DefaultPrefix, dead, "etcd") {
					if strings.Contains(w.Body.String(), secret) {
						t.Errorf("%q is in: %s", secret, w.Body)
					}
				}
				if !strings.Contains(w.Body.String(), callee) {
					t.Errorf("the service is not named: %s", w.Body)
				}
			}
		})
	}
}
