package auth_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/auth"
)

// FuzzToken changes a good token in all ways. Whatever comes in, nothing panics, and who is let in is whom the issuer named.
func FuzzToken(f *testing.F) {
	iss := newIssuer(f, "k1")
	a, err := auth.New(auth.Params{Service: "user-service", Config: config(iss.file())})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(a.Close)
	authenticate, _ := a.Authenticate()
	good := iss.token(nil)
	parts := strings.Split(good, ".")
	for _, raw := range []string{
		"Bearer " + good, "bearer  " + good, "Bearer " + parts[0] + "." + parts[1] + ".", "Bearer " + parts[1] + "." + parts[0] + "." + parts[2],
		"Bearer eyJhbGciOiJub25lIn0." + parts[1] + ".", "Bearer", "Basic x", "Bearer ..", "Bearer {}",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": {raw}})
		_, err := authenticate(ctx, nil, infoOf(read), func(ctx context.Context, _ any) (any, error) {
			if who, ok := auth.Subject(ctx); !ok || who != "ann" {
				t.Errorf("%q is let in as %q", raw, who)
			}
			return nil, nil
		})
		if err != nil && reasonOf(err) == "" {
			t.Errorf("%q is refused without a reason: %v", raw, err)
		}
	})
}
