package discovery_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServiceNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "user", "blogger-user", "user-service", "x-windows", "pay-test", "type", "v2x", "com10", strings.Repeat("a", 50)} {
		if err := discovery.CheckService(name); err != nil {
			t.Errorf("CheckService(%q) = %v, want nil", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                      "empty",
		"BloggerUser":           "lower-case",
		"blogger_user":          "lower-case",
		"a/b":                   "lower-case",
		"-x":                    "lower-case",
		"a--b":                  "lower-case",
		"a-":                    "lower-case",
		"1a":                    "beginning with a letter",
		"user.v1":               "lower-case",
		"vendor":                "special meaning",
		"internal":              "special meaning",
		"testdata":              "special meaning",
		"newsvc":                "framework's own",
		"v2":                    "major version",
		"con":                   "device name",
		"lpt1":                  "device name",
		strings.Repeat("a", 51): "51 bytes",
	} {
		if err := discovery.CheckService(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckService(%q) = %v, want an error with %q", name, err, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"10.0.0.1:9000", "[::1]:1", "host.example:65535", "my_pod:80", "[fe80::1%eth0]:9"} {
		if err := discovery.CheckAddr(addr); err != nil {
			t.Errorf("CheckAddr(%q) = %v, want nil", addr, err)
		}
	}
	for _, addr := range []string{"", "x", "10.0.0.1", ":9000", "0.0.0.0:9000", "[::]:9000", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", "a b:1", "a/b:1", "::1:9000", "224.0.0.1:1"} {
		if err := discovery.CheckAddr(addr); err == nil {
			t.Errorf("CheckAddr(%q) = nil, want an error", addr)
		} else if !strings.Contains(err.Error(), `"`+addr+`"`) {
			t.Errorf("CheckAddr(%q) = %v, which does not name the value", addr, err)
		}
	}
}

func TestPrefixes(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"/a", "/newsvc/default", "/grpcEtcd"} {
		if err := discovery.CheckPrefix(p); err != nil {
			t.Errorf("CheckPrefix(%q) = %v, want nil", p, err)
		}
	}
	for _, p := range []string{"", "/", "a", "/a/", "/a//b"} {
		if err := discovery.CheckPrefix(p); err == nil {
			t.Errorf("CheckPrefix(%q) = nil, want an error", p)
		}
	}
}

func TestKeysAreReadBack(t *testing.T) {
	t.Parallel()
	key := discovery.Key("/newsvc/default", "user", "[::1]:9000")
	if want := "/newsvc/default/user/[::1]:9000"; key != want {
		t.Fatalf("Key = %q, want %q", key, want)
	}
	service, rest, ok := discovery.ParseKey("/newsvc/default", key)
	if !ok || service != "user" || rest != "[::1]:9000" {
		t.Fatalf("ParseKey = %q, %q, %v", service, rest, ok)
	}
	for _, foreign := range []string{"/newsvc/defaults/user/a:1", "/newsvc/default/user", "/newsvc/default/user/", "/newsvc/default/User/a:1"} {
		if _, _, ok := discovery.ParseKey("/newsvc/default", foreign); ok {
			t.Errorf("ParseKey(%q) is ok", foreign)
		}
	}
	if strings.HasPrefix(discovery.Key("/p", "user-admin", "a:1"), discovery.ServicePrefix("/p", "user")) {
		t.Error("the prefix of \"user\" covers the keys of \"user-admin\"")
	}
}
