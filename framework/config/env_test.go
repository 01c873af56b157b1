package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/config"
)

// serviceLinks is what Kubernetes sets in every pod for a service called name.
func serviceLinks(name string) []string {
	p := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	return []string{
		p + "_SERVICE_HOST=10.0.0.7", p + "_SERVICE_PORT=9000", p + "_SERVICE_PORT_GRPC=9000", p + "_SERVICE_PORT_ADMIN_HTTP=9001",
		p + "_PORT=tcp://10.0.0.7:9000", p + "_PORT_9000_TCP=tcp://10.0.0.7:9000", p + "_PORT_9000_TCP_PROTO=tcp",
		p + "_PORT_9000_TCP_PORT=9000", p + "_PORT_9000_TCP_ADDR=10.0.0.7",
	}
}

func TestKubernetesServiceLinksAreNotOurs(t *testing.T) {
	t.Parallel()
	var environ []string
	for _, name := range []string{"blogger", "blogger-user", "user", "user-service", "server", "etcd", "kubernetes"} {
		environ = append(environ, serviceLinks(name)...)
	}
	environ = append(environ, "USER_SERVICE__SERVER__LISTEN=:7", "USER_SERVICE__NOTHING=1")
	for _, service := range []string{"blogger-user", "blogger", "user"} {
		c, err := config.Load(config.Sources{Service: service, Environ: environ, NoFile: true}, sections()...)
		if err != nil {
			t.Fatalf("service %q: %v", service, err)
		}
		if diff := cmp.Diff([]string{"defaults"}, c.Sources()); diff != "" {
			t.Errorf("service %q took variables (-want +got):\n%s", service, diff)
		}
	}
}

func TestVariablesOfOthersAreIgnored(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "", env("BLOGGER_USER_SERVER_LISTEN=:1", "BLOGGER_USER_=x", "BLOGGER_USER=x", "BLOGGER__SERVER__LISTEN=:1",
		"XBLOGGER_USER__SERVER__LISTEN=:1", "=C:=x", "BLOGGER_USER__SERVER__LISTEN", ""))
	if got := c.Origin("server.listen"); got != "default" {
		t.Errorf("server.listen comes from %q", got)
	}
}

func TestVariablesBecomeTheTypeOfTheirKey(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "server: {labels: {app-name: x}}", env(
		"BLOGGER_USER__SERVER__LISTEN=:1=2", "BLOGGER_USER__SERVER__TIMEOUT= 90s ", "BLOGGER_USER__SERVER__REFLECT=TRUE",
		"BLOGGER_USER__SERVER__ACCEPT_NAMES= a, b;c ,;", "blogger_user__Server__Max=7", "BLOGGER_USER__SERVER__FROM=10.0.0.0/8",
		"BLOGGER_USER__SERVER__LABELS__APP_NAME=y", "BLOGGER_USER__SERVER__LABELS__TEAM=infra", "BLOGGER_USER__SERVER__LABELS__NEW_ONE=z",
		"BLOGGER_USER__SERVER__QUOTA__EU__RATE=3", "BLOGGER_USER__SERVER__TLS__CERT=", "BLOGGER_USER__ETCD__ENDPOINTS=",
		"BLOGGER_USER__SERVER__SIZE=1", "BLOGGER_USER__SERVER__SIZE=2", "BLOGGER_USER__CLIENTS__USER_SERVICE__TIMEOUT=4s",
	))
	s := get[serverConfig](t, c, "server")
	if s.Listen != ":1=2" || s.Timeout != 90*time.Second || !s.Reflect || s.Max != 7 || s.From.Bits() != 8 || s.Size != 2 {
		t.Errorf("server = %+v", s)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, s.Accept); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"app-name": "y", "team": "infra", "new_one": "z"}, s.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]quota{"eu": {Rate: 3}}, s.Quota); diff != "" {
		t.Error(diff)
	}
	if got := get[etcdConfig](t, c, "etcd").Endpoints; len(got) != 0 {
		t.Errorf("endpoints = %q, want an empty variable to empty the list", got)
	}
	if got := get[policy](t, c, "clients.user-service").Timeout; got != 4*time.Second {
		t.Errorf("timeout of user-service = %s", got)
	}
}

func TestSetTakesDotsInTheNameOfAnEntry(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "", args("--set", "server.labels.app.kubernetes.io/name=a=b", "--set", "server.quota.eu.rate=2",
		"--set", "server.max=1", "--set", "server.max=2", "--set", "etcd.endpoints=a:1;b:2"))
	s := get[serverConfig](t, c, "server")
	if s.Labels["app.kubernetes.io/name"] != "a=b" || s.Quota["eu"].Rate != 2 || s.Max != 2 {
		t.Errorf("server = %+v", s)
	}
	if got := c.Origin("server.labels.app.kubernetes.io/name"); got != "--set" {
		t.Errorf("origin = %q", got)
	}
	if diff := cmp.Diff([]string{"a:1", "b:2"}, get[etcdConfig](t, c, "etcd").Endpoints); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutAServiceNoVariableIsOurs(t *testing.T) {
	t.Parallel()
	if _, err := config.Load(config.Sources{NoFile: true, Environ: []string{"__SERVER__MAX=x", "A__B=1"}}, sections()...); err != nil {
		t.Error(err)
	}
}

func TestEnvName(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"server.listen":                "BLOGGER_USER__SERVER__LISTEN",
		"clients.user-service.timeout": "BLOGGER_USER__CLIENTS__USER_SERVICE__TIMEOUT",
	} {
		if got := config.EnvName("blogger-user", key); got != want {
			t.Errorf("EnvName(%q) = %q, want %q", key, got, want)
		}
	}
}

func FuzzEnvironment(f *testing.F) {
	for _, name := range []string{"BLOGGER_USER__SERVER__MAX", "BLOGGER_USER___X", "BLOGGER_USER__SERVER__LABELS__A__B", "BLOGGER_USER_SERVICE_HOST",
		"BLOGGER_USER__SERVER__QUOTA__X", "BLOGGER_USER__\x1f__", "blogger-user__server__max"} {
		f.Add(name, "1")
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		c, err := config.Load(config.Sources{Service: "blogger-user", NoFile: true, Environ: []string{name + "=" + value}}, sections()...)
		key, _, _ := strings.Cut(name+"=", "=")
		ours := strings.HasPrefix(strings.ToUpper(strings.ReplaceAll(key, "-", "_")), "BLOGGER_USER__")
		if !ours && err != nil {
			t.Fatalf("%q is not ours and was refused: %v", name, err)
		}
		if ours && err == nil && len(c.Sources()) != 2 {
			t.Fatalf("%q is ours and was neither taken nor refused", name)
		}
	})
}

func FuzzEveryKeyHasItsVariable(f *testing.F) {
	f.Add(uint(0), "5")
	f.Add(uint(9), "x,y")
	f.Fuzz(func(t *testing.T, pick uint, text string) {
		c, err := config.Load(config.Sources{Service: "blogger-user", NoFile: true}, sections()...)
		if err != nil {
			t.Fatal(err)
		}
		values := c.Values()
		key := values[pick%uint(len(values))].Key
		_, byEnv := config.Load(config.Sources{Service: "blogger-user", NoFile: true,
			Environ: []string{config.EnvName("blogger-user", key) + "=" + text}}, sections()...)
		_, bySet := config.Load(config.Sources{Service: "blogger-user", NoFile: true, Args: []string{"--set", key + "=" + text}}, sections()...)
		if (byEnv == nil) != (bySet == nil) {
			t.Fatalf("key %q with %q: environment says %v, --set says %v", key, text, byEnv, bySet)
		}
	})
}

func FuzzFile(f *testing.F) {
	for _, s := range []string{full, "server: {max: 1}", "a: &a [*a]", "? {a: b}\n: c", "server:\n<<: x", "\x00", "- - -", "server: !!map", "server: {labels: {? : x}}",
		"server: {quota: {? [a] : b}}", "--- |\n x", "%YAML 1.1\n---\na: b", "clients: {user-service: {codes: [~, 1, {}]}}", "etcd: {pin: 0x}", "server: {rules: [~, [], {after: ~}]}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		write(t, dir, "config.yaml", text)
		c, err := config.Load(config.Sources{Dir: dir}, sections()...)
		if err == nil {
			c.Values()
			return
		}
		if err.Error() == "" {
			t.Fatal("an error without text")
		}
	})
}
