package names_test

import (
	"errors"
	"go/token"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/framework/discovery"
)

func TestParseDerives(t *testing.T) {
	t.Parallel()
	for _, want := range []names.Name{
		{"blogger-user", "blogger_user", "blogger_user.v1", "BloggerUserService", "bloggeruserv1", "bloggeruser", "blogger_user", "BLOGGER_USER__"},
		{"user-service", "user", "user.v1", "UserService", "userv1", "user", "user", "USER_SERVICE__"},
		{"a", "a", "a.v1", "AService", "av1", "a", "a", "A__"},
		{"service", "service", "service.v1", "ServiceService", "servicev1", "servicesvc", "service", "SERVICE__"},
		{"service-service", "service", "service.v1", "ServiceService", "servicev1", "servicesvc", "service", "SERVICE_SERVICE__"},
		{"pay-windows", "pay_windows", "pay_windows.v1", "PayWindowsService", "paywindowsv1", "paywindows", "pay_windows", "PAY_WINDOWS__"},
		{"user-test", "user_test", "user_test.v1", "UserTestService", "usertestv1", "usertest", "user_test", "USER_TEST__"},
		{"x-v2", "x_v2", "x_v2.v1", "XV2Service", "xv2v1", "xv2", "x_v2", "X_V2__"},
		{"oauth-2", "oauth_2", "oauth_2.v1", "Oauth2Service", "oauth2v1", "oauth2", "oauth_2", "OAUTH_2__"},
		{"x2y-api", "x2y_api", "x2y_api.v1", "X2YApiService", "x2yapiv1", "x2yapi", "x2y_api", "X2Y_API__"},
		// A Go package cannot be called so, or would hide something.
		{"type", "type", "type.v1", "TypeService", "typev1", "typesvc", "type", "TYPE__"},
		{"go-service", "go", "go.v1", "GoService", "gov1", "gosvc", "go", "GO_SERVICE__"},
		{"string", "string", "string.v1", "StringService", "stringv1", "stringsvc", "string", "STRING__"},
		{"main", "main", "main.v1", "MainService", "mainv1", "mainsvc", "main", "MAIN__"},
		{"internal-service", "internal", "internal.v1", "InternalService", "internalv1", "internalsvc", "internal", "INTERNAL_SERVICE__"},
		{"fx", "fx", "fx.v1", "FxService", "fxv1", "fxsvc", "fx", "FX__"},
		// The framework keeps these sections for itself.
		{"auth", "auth", "auth.v1", "AuthService", "authv1", "auth", "auth_service", "AUTH__"},
		{"log-service", "log", "log.v1", "LogService", "logv1", "log", "log_service", "LOG_SERVICE__"},
		{"app", "app", "app.v1", "AppService", "appv1", "appsvc", "app_service", "APP__"},
	} {
		t.Run(want.Service, func(t *testing.T) {
			t.Parallel()
			got, err := names.Parse(want.Service)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("Parse(%q)\n got %+v\nwant %+v", want.Service, got, want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, reason, suggestion string }{
		{"BloggerUser", `"BloggerUser" is not a service name: use lower-case letters, digits and single dashes`, "blogger-user"},
		{"blogger_user", `"blogger_user" is not a service name: use lower-case letters, digits and single dashes`, "blogger-user"},
		{"Blogger User", `"Blogger User" is not a service name: use lower-case letters, digits and single dashes`, "blogger-user"},
		{"a/b", `"a/b" is not a service name: use lower-case letters, digits and single dashes`, "a-b"},
		{"-x", `"-x" is not a service name: use lower-case letters, digits and single dashes`, "x"},
		{"a--b", `"a--b" is not a service name: use lower-case letters, digits and single dashes`, "a-b"},
		{"a-", `"a-" is not a service name: use lower-case letters, digits and single dashes`, "a"},
		{"2fa", `"2fa" is not a service name: use lower-case letters, digits and single dashes`, "app-2fa"},
		{"日本", `"日本" is not a service name: use lower-case letters, digits and single dashes`, "blogger-user"},
		{"", "a service needs a name", "blogger-user"},
		{"vendor", `"vendor" cannot be a service name: the go command gives directories with that name a special meaning`, "vendors"},
		{"internal", `"internal" cannot be a service name: the go command gives directories with that name a special meaning`, "internals"},
		{"testdata", `"testdata" cannot be a service name: the go command gives directories with that name a special meaning`, "test-data"},
		{"newsvc", `"newsvc" cannot be a service name: it is the framework's own`, "app-newsvc"},
		{"v2", `"v2" cannot be a service name: a module path that ends so means a major version`, "app-v2"},
		{"com1", `"com1" cannot be a service name: it is a device name on Windows`, "app-com1"},
		{
			strings.Repeat("ab-", 17) + "c",
			`"` + strings.Repeat("ab-", 17) + `c" is too long for a service name: it has 52 characters, at most 50 fit into the names built from it`,
			strings.Repeat("ab-", 16) + "ab",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := names.Parse(tc.name)
			var refused *names.Error
			if !errors.As(err, &refused) {
				t.Fatalf("Parse(%q) = %v, want *names.Error", tc.name, err)
			}
			if refused.Reason != tc.reason {
				t.Errorf("reason\n got %s\nwant %s", refused.Reason, tc.reason)
			}
			if refused.Suggestion != tc.suggestion {
				t.Errorf("suggestion %q, want %q", refused.Suggestion, tc.suggestion)
			}
		})
	}
}

func TestLongestNameIsAccepted(t *testing.T) {
	t.Parallel()
	if _, err := names.Parse(strings.Repeat("a", discovery.MaxServiceLength)); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"blogger-user", "user-service", "BloggerUser", "a/b", "vendor", "-x", "v2", "con", "v-2", "c-on", "type", "9", "ÄÖ", "a-", "HTTPServer", "x-linux-amd64"} {
		f.Add(seed)
	}
	label := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	f.Fuzz(func(t *testing.T, in string) {
		n, err := names.Parse(in)
		if (err == nil) != (discovery.CheckService(in) == nil) {
			t.Fatalf("Parse and discovery.CheckService disagree about %q: %v", in, err)
		}
		if err != nil {
			var refused *names.Error
			if !errors.As(err, &refused) || discovery.CheckService(refused.Suggestion) != nil {
				t.Fatalf("Parse(%q) = %v suggests a name that is refused", in, err)
			}
			return
		}
		if names.Suggest(in) != in {
			t.Errorf("Suggest(%q) = %q, want the accepted name itself", in, names.Suggest(in))
		}
		for _, id := range []string{n.ProtoService, n.Stubs, n.Package, n.Section, n.Domain} {
			if token.IsKeyword(id) && (id == n.Package || id == n.Stubs) || !identifier(id) {
				t.Errorf("%q gives %q, which is no identifier", in, id)
			}
		}
		if !label.MatchString(in) {
			t.Errorf("%q is no DNS label", in)
		}
		if err := module.CheckPath("example.com/" + in); err != nil {
			t.Error(err)
		}
		for _, path := range []string{"/internal/" + n.Package, "/proto/" + n.Domain + "/v1"} {
			if err := module.CheckImportPath("example.com/" + in + path); err != nil {
				t.Error(err)
			}
		}
		if strings.HasSuffix(n.Package, "_test") || n.Package == "main" || n.Package == "internal" || n.Package == "vendor" {
			t.Errorf("%q gives the Go package %q", in, n.Package)
		}
	})
}

// identifier is token.IsIdentifier without the keywords: a proto package or a section may be called "type".
func identifier(s string) bool { return token.IsIdentifier(s) || token.IsKeyword(s) }
