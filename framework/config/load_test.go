package config_test

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/newsvc/newsvc/framework/config"
)

const full = `server:
  listen: "127.0.0.1:1"
  timeout: 250ms
  max: 0x10
  tiny: -128
  share: 1
  reflect: true
  accept_names: [a, "b,c"]
  labels:
    app.kubernetes.io/name: x
  tls: {cert: c.pem, key: k.pem}
  from: 10.0.0.0/8
  rules:
    - path: /a
      after: 1m
    - {path: /b, token: hush}
  quota:
    eu: {rate: 5}
    us:
  size: 65535
etcd:
clients:
  defaults:
    timeout: 3s
    codes: [UNAVAILABLE]
  user-service:
    retries: 7
`

func TestLoadReadsEveryType(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, full, nil)
	want := serverConfig{
		Listen: "127.0.0.1:1", Timeout: 250 * time.Millisecond, Max: 16, Tiny: -128, Share: 1, Reflect: true,
		Accept: []string{"a", "b,c"}, Labels: map[string]string{"team": "core", "app.kubernetes.io/name": "x"},
		TLS: tlsConfig{Cert: "c.pem", Key: "k.pem"}, From: netip.MustParsePrefix("10.0.0.0/8"),
		Rules: []rule{{Path: "/a", After: time.Minute}, {Path: "/b", Token: "hush"}},
		Quota: map[string]quota{"eu": {Rate: 5}, "us": {}}, Size: 65535,
	}
	got := get[serverConfig](t, c, "server")
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(serverConfig{}, "Hook"), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
}

func TestLoadWithoutAnySourceGivesTheDefaults(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "", nil)
	if got := get[serverConfig](t, c, "server"); got.Listen != ":9000" || got.Timeout != 5*time.Second {
		t.Errorf("server = %+v, want the defaults", got)
	}
	if diff := cmp.Diff([]string{"defaults", "config.yaml (absent)"}, c.Sources()); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

func TestLoadTakesAFileWithoutKeys(t *testing.T) {
	t.Parallel()
	for _, text := range []string{" ", "\n\n", "# nothing\n", "---\n", "null\n", "{}", "server:\n", "\ufeffserver:\n"} {
		if c := mustLoad(t, text, nil); c.Origin("server.listen") != "default" {
			t.Errorf("%q set server.listen from %q", text, c.Origin("server.listen"))
		}
	}
}

func TestLaterLayersWin(t *testing.T) {
	t.Parallel()
	file := "server: {listen: ':1', max: 1, share: 1, tiny: 1, size: 1}"
	c := mustLoad(t, file, func(s *config.Sources) {
		write(t, s.Dir, "config.prod.yaml", "server: {max: 2, share: 2, tiny: 2, size: 2}")
		s.Layers = []config.Layer{{Name: "etcd /x", Settings: []config.Setting{
			{Key: "server.share", Text: "3"}, {Key: "server.tiny", Text: "3"},
			{Key: "server.size", Text: "3", Position: config.Position{Name: "etcd /x/server/size"}},
		}}}
		s.Environ = []string{"BLOGGER_USER__SERVER__TINY=4", "BLOGGER_USER__SERVER__SIZE=4", "NEWSVC_ENV=dev"}
		s.Args = []string{"--env", "prod", "--set=server.size=5"}
	})
	got := get[serverConfig](t, c, "server")
	if got.Listen != ":1" || got.Max != 2 || got.Share != 3 || got.Tiny != 4 || got.Size != 5 {
		t.Errorf("server = %+v, want :1 2 3 4 5", got)
	}
	for key, want := range map[string]string{
		"server.timeout": "default",
		"server.listen":  "config.yaml:1",
		"server.max":     "config.prod.yaml:1",
		"server.share":   "etcd /x",
		"server.tiny":    "env BLOGGER_USER__SERVER__TINY",
		"server.size":    "--set",
		"server.nothing": "",
	} {
		if got := c.Origin(key); got != want {
			t.Errorf("Origin(%q) = %q, want %q", key, got, want)
		}
	}
	sources := []string{"defaults", "config.yaml", "config.prod.yaml", "etcd /x", "env (2 variables)", "--set (1 key)"}
	if diff := cmp.Diff(sources, c.Sources()); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

func TestAListReplacesAndAMapMerges(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "server: {accept_names: [x, y], labels: {a: '1', b: '1'}, quota: {eu: {rate: 1, burst: 1}}}", func(s *config.Sources) {
		write(t, s.Dir, "config.dev.yaml", "server: {accept_names: [z], labels: {b: '2'}, quota: {eu: {rate: 2}}}")
		s.Environ = []string{"NEWSVC_ENV=dev"}
	})
	got := get[serverConfig](t, c, "server")
	if diff := cmp.Diff([]string{"z"}, got.Accept); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"team": "core", "a": "1", "b": "2"}, got.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]quota{"eu": {Rate: 2, Burst: 1}}, got.Quota); diff != "" {
		t.Error(diff)
	}
}

func TestSectionInheritsWhatItDoesNotSet(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, full, env("BLOGGER_USER__CLIENTS__DEFAULTS__TARGET=dns:///x"))
	user := policy{Timeout: 3 * time.Second, Retries: 7, Target: "dns:///x", Codes: []string{"UNAVAILABLE"}}
	if diff := cmp.Diff(user, get[policy](t, c, "clients.user-service")); diff != "" {
		t.Errorf("user-service (-want +got):\n%s", diff)
	}
	// billing has defaults of its own: they stand under what clients.defaults was set to, and over its defaults.
	billing := policy{Timeout: 3 * time.Second, Target: "dns:///x", Codes: []string{"UNAVAILABLE"}}
	if diff := cmp.Diff(billing, get[policy](t, c, "clients.billing")); diff != "" {
		t.Errorf("billing (-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{
		"clients.user-service.retries": "config.yaml:27",
		"clients.user-service.timeout": "clients.defaults (config.yaml:24)",
		"clients.user-service.target":  "clients.defaults (env BLOGGER_USER__CLIENTS__DEFAULTS__TARGET)",
		"clients.billing.retries":      "default",
		"clients.defaults.timeout":     "config.yaml:24",
	} {
		if got := c.Origin(key); got != want {
			t.Errorf("Origin(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestAnOwnValueWinsOverALaterLayerOfTheBase(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "clients: {user-service: {timeout: 2s}}", args("--set", "clients.defaults.timeout=8s"))
	if got := get[policy](t, c, "clients.user-service").Timeout; got != 2*time.Second {
		t.Errorf("timeout = %s, want the callee's own 2s", got)
	}
}

func TestConfigFileIsFoundByFlagAndVariable(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "server: {max: 1}", func(s *config.Sources) {
		write(t, s.Dir, "app.yml", "server: {max: 2}")
		write(t, s.Dir, "other.yaml", "server: {max: 3}")
		write(t, s.Dir, "app.eu.yml", "server: {size: 9}")
		s.Environ = []string{"NEWSVC_CONFIG=other.yaml", "NEWSVC_ENV=eu"}
		s.Args = []string{"--config=app.yml"}
	})
	if got := get[serverConfig](t, c, "server"); got.Max != 2 || got.Size != 9 {
		t.Errorf("max, size = %d, %d, want those of app.yml and app.eu.yml", got.Max, got.Size)
	}
	c = mustLoad(t, "", func(s *config.Sources) {
		path := filepath.Join(t.TempDir(), "abs.yaml")
		write(t, filepath.Dir(path), "abs.yaml", "server: {max: 4}")
		s.Environ = []string{"NEWSVC_CONFIG=" + path}
	})
	if got := get[serverConfig](t, c, "server"); got.Max != 4 {
		t.Errorf("max = %d, want that of the absolute file", got.Max)
	}
}

func TestNoFileReadsOnlyWhatArgumentsName(t *testing.T) {
	t.Parallel()
	vars := []string{"NEWSVC_CONFIG=missing.yaml", "NEWSVC_ENV=missing"}
	c := mustLoad(t, "server: {max: 1}", func(s *config.Sources) { s.NoFile, s.Environ = true, vars })
	if got := get[serverConfig](t, c, "server").Max; got != 10 {
		t.Errorf("max = %d, want the default", got)
	}
	c = mustLoad(t, "server: {max: 1}", func(s *config.Sources) {
		s.NoFile, s.Environ, s.Args = true, vars, []string{"--config", "config.yaml"}
	})
	if got := get[serverConfig](t, c, "server").Max; got != 1 {
		t.Errorf("max = %d, want that of the named file", got)
	}
}

func TestGetHandsOutCopies(t *testing.T) {
	t.Parallel()
	defaults := serverDefaults()
	c, err := config.Load(config.Sources{NoFile: true, Args: []string{"--set", "server.labels.b=2"}}, config.Section{Path: "server", Defaults: defaults})
	if err != nil {
		t.Fatal(err)
	}
	first := get[serverConfig](t, c, "server")
	first.Labels["team"], first.Accept[0] = "changed", "changed"
	second := get[serverConfig](t, c, "server")
	if second.Labels["team"] != "core" || second.Accept[0] != "one" {
		t.Errorf("a change of one copy shows in the next: %+v", second)
	}
	if len(defaults.Labels) != 1 || defaults.Labels["team"] != "core" {
		t.Errorf("Load or Get changed the defaults it was given: %v", defaults.Labels)
	}
}

func TestGetSaysWhatItHas(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "", nil)
	_, err := config.Get[serverConfig](c, "sever")
	wantErr(t, err, `read section "sever": no such section; known are "clients.billing", "clients.defaults", "clients.user-service", "etcd", "server"`)
	_, err = config.Get[policy](c, "server")
	wantErr(t, err, `read section "server" as config_test.policy: it holds a config_test.serverConfig; ask for that type`)
}

func wantErr(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}
