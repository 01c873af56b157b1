package interop_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
)

func TestACallerShowsItsCertificate(t *testing.T) {
	t.Parallel()
	l := startLab(t, labOptions{tls: true})
	for name, want := range map[string]codes.Code{"with": codes.OK, "without": codes.Unavailable} {
		c := l.call(t, func(p *client.Policy) {
			p.WaitForReady = false
			if name == "without" {
				p.TLS.Cert, p.TLS.Key = "", ""
			}
		})
		if _, err := testpb.NewTestServiceClient(c).EmptyCall(limit(t), &testpb.Empty{}); status.Code(err) != want {
			t.Errorf("%s a certificate: %v", name, err)
		}
	}
}

func TestACalleeIsKnownByItsSPIFFEIDWhenAsked(t *testing.T) {
	t.Parallel()
	l := startLab(t, labOptions{tls: true})
	for id, want := range map[string]codes.Code{identity: codes.OK, "spiffe://example.org/somebody-else": codes.Unavailable} {
		c := l.call(t, func(p *client.Policy) { p.WaitForReady, p.TLS.SPIFFEID = false, id })
		if _, err := testpb.NewTestServiceClient(c).EmptyCall(limit(t), &testpb.Empty{}); status.Code(err) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
}
