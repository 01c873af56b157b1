package examples_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// solo starts a user-service that finds no etcd, in a directory with this config.yaml; "" for none.
func solo(t *testing.T, yaml string, env []string, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	if yaml != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env = append([]string{
		"NEWSVC_DEV=1", "USER_SERVICE__ADMIN__LISTEN=127.0.0.1:0", "USER_SERVICE__ETCD__ENDPOINTS=127.0.0.1:1",
	}, env...)
	return launch(t, command{binary: binary(userService), dir: dir, env: env, args: args})
}

func TestABadConfigurationStopsTheStartAndSaysWhere(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		yaml string
		env  []string
		args []string
		want []string
	}{
		"unknown key":          {yaml: "server:\n  listne: 127.0.0.1:0\n", want: []string{"server.listne", "config.yaml:2", "listen"}},
		"unknown section":      {yaml: "sever:\n  listen: 127.0.0.1:0\n", want: []string{"sever", "config.yaml:1", "server"}},
		"unknown in variable":  {env: []string{"USER_SERVICE__SERVER__LISTNE=127.0.0.1:0"}, want: []string{"USER_SERVICE__SERVER__LISTNE", "USER_SERVICE__SERVER__LISTEN"}},
		"unknown in flag":      {args: []string{"--set", "server.listne=127.0.0.1:0"}, want: []string{"server.listne", "--set", "server.listen"}},
		"wrong type":           {yaml: "log:\n  level: info\nuser:\n  keep_changes: many\n", want: []string{"user.keep_changes", "config.yaml:4", "many"}},
		"number as duration":   {yaml: "clients:\n  defaults:\n    timeout: 5\n", want: []string{"clients.defaults.timeout", "config.yaml:3", "5s"}},
		"bad duration in env":  {env: []string{"USER_SERVICE__REGISTRATION__TTL=5"}, want: []string{"registration.ttl", "USER_SERVICE__REGISTRATION__TTL", "5s"}},
		"value not allowed":    {yaml: "user:\n  store: mongo\n", want: []string{"user.store", "config.yaml:2", "mongo", "sqlite", "memory"}},
		"required value empty": {yaml: "user:\n  path: \"\"\n", want: []string{"user.path", "config.yaml:2", "data/users.db"}},
		"ttl too short":        {yaml: "registration:\n  ttl: 1s\n", want: []string{"registration.ttl", "config.yaml:2", "5s"}},
		"callee nobody calls":  {yaml: "clients:\n  mail-service:\n    timeout: 1s\n", want: []string{"clients.mail-service", "config.yaml:2"}},
		"no yaml":              {yaml: "server: [\n", want: []string{"config.yaml"}},
		"named file missing":   {args: []string{"--config", "nowhere.yaml"}, want: []string{"nowhere.yaml"}},
		"unknown flag":         {args: []string{"--listen", ":1"}, want: []string{"--listen"}},
		"all at once": {yaml: "server:\n  listne: x\nuser:\n  store: mongo\n",
			want: []string{"server.listne", "config.yaml:2", "user.store", "config.yaml:4"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 20*time.Second)
			p := solo(t, tt.yaml, tt.env, tt.args...)
			if status := p.wait(ctx); status == 0 || status >= 128 {
				t.Errorf("exit status %d, want one that says that it failed", status)
			}
			for _, want := range tt.want {
				if !strings.Contains(p.err.String(), want) {
					t.Errorf("stderr does not say %q:\n%s", want, p.err.String())
				}
			}
			if n := strings.Count(p.err.String(), "\n"); n > 6 {
				t.Errorf("%d lines on stderr, want a few:\n%s", n, p.err.String())
			}
		})
	}
}

func TestAnUnreadableConfigurationStopsTheStart(t *testing.T) {
	t.Parallel()
	ctx := within(t, 20*time.Second)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "config.yaml"), 0o700); err != nil { // root may read any file, but no directory as one
		t.Fatal(err)
	}
	p := launch(t, command{binary: binary(userService), dir: dir})
	if status := p.wait(ctx); status != 1 || !strings.Contains(p.err.String(), "config.yaml") {
		t.Errorf("exit status %d, stderr %q; want 1 and the file's name", status, p.err.String())
	}
}

func TestVariablesThatKubernetesInjectsDoNoHarm(t *testing.T) {
	t.Parallel()
	ctx := within(t, 30*time.Second)
	c := newCluster(t, startEtcd(t),
		"USER_SERVICE_SERVICE_HOST=10.0.0.7", "USER_SERVICE_SERVICE_PORT=9000", "USER_SERVICE_PORT=tcp://10.0.0.7:9000",
		"USER_SERVICE_PORT_9000_TCP=tcp://10.0.0.7:9000", "USER_SERVICE_PORT_9000_TCP_PROTO=tcp",
		"USER_SERVICE_PORT_9000_TCP_PORT=9000", "USER_SERVICE_PORT_9000_TCP_ADDR=10.0.0.7", "USER_SERVICE_SERVICE_PORT_GRPC=9000",
		"USER_PORT=tcp://10.0.0.8:80", "KUBERNETES_SERVICE_HOST=10.0.0.1")
	i := c.start(ctx, 1)[0]
	if !strings.HasPrefix(i.GRPC, "127.0.0.1:") {
		t.Errorf("it listens on %q, want what is configured", i.GRPC)
	}
	i.signal(syscall.SIGTERM)
	if status := i.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

func TestD06ASecondSignalEndsTheProcessAtOnce(t *testing.T) {
	t.Parallel()
	ctx := within(t, 30*time.Second)
	c := newCluster(t, startEtcd(t), "USER_SERVICE__SERVER__DRAIN__MIN_WINDOW=5s") // so that the stop takes its time
	i := c.start(ctx, 1)[0]
	i.signal(syscall.SIGTERM)
	eventually(ctx, t, text("it does not begin to stop"), func() bool { return strings.Contains(i.err.String(), "stopping") })
	second := i.signal(syscall.SIGTERM)
	if status := i.wait(ctx); status != 128+int(syscall.SIGTERM) {
		t.Errorf("exit status %d, want 143", status)
	}
	if took := i.at.Sub(second); took > time.Second {
		t.Errorf("it ended %s after the second SIGTERM, want at once", took)
	}
}

func TestSIGQUITLogsStacksAndStopsCleanly(t *testing.T) {
	t.Parallel()
	ctx := within(t, 30*time.Second)
	c := newCluster(t, startEtcd(t))
	i := c.start(ctx, 1)[0]
	i.signal(syscall.SIGQUIT)
	if status := i.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	for _, want := range []string{"goroutine 1 [", "main.main"} {
		if !strings.Contains(i.err.String(), want) {
			t.Errorf("the log does not show %q", want)
		}
	}
	if keys, err := c.keys(ctx); err != nil || len(keys) > 0 {
		t.Errorf("still registered: %v, %v", keys, err)
	}
	if _, err := os.Stat(i.ready); !os.IsNotExist(err) {
		t.Errorf("its ready file is still there: %v", err)
	}
}

func TestAServiceStartsAndStopsWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	ctx := within(t, 30*time.Second)
	p := solo(t, "", []string{"USER_SERVICE__SERVER__LISTEN=127.0.0.1:0"})
	eventually(ctx, t, text("it does not start"), func() bool { return strings.Contains(p.err.String(), "started") })
	told := p.signal(syscall.SIGTERM)
	if status := p.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0: a registration that could not be revoked is a warning", status)
	}
	t.Logf("stopped after %s", p.at.Sub(told).Round(time.Millisecond))
	if took := p.at.Sub(told); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

func TestIntrospectionAnswersJSONWithoutListening(t *testing.T) {
	t.Parallel()
	for _, ask := range []string{"config", "schema", "graph", "callees"} {
		t.Run(ask, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 20*time.Second)
			// A port that can't be had: whoever listens fails.
			p := solo(t, "", []string{"NEWSVC_INTROSPECT=" + ask, "USER_SERVICE__SERVER__LISTEN=192.0.2.1:1"})
			if status := p.wait(ctx); status != 0 {
				t.Fatalf("exit status %d: %s", status, p.err.String())
			}
			var answer any
			if err := json.Unmarshal([]byte(p.out.String()), &answer); err != nil {
				t.Errorf("stdout is no JSON: %v\n%s", err, p.out.String())
			}
			if p.err.String() != "" {
				t.Errorf("stderr is not empty: %s", p.err.String())
			}
			if _, err := os.Stat(filepath.Join(p.cmd.Dir, "data")); !os.IsNotExist(err) {
				t.Errorf("a constructor of the service ran: there is a data directory (%v)", err)
			}
		})
	}
}

func TestIntrospectionRefusesAnUnknownQuestion(t *testing.T) {
	t.Parallel()
	p := solo(t, "", []string{"NEWSVC_INTROSPECT=everything"})
	if status := p.wait(within(t, 20*time.Second)); status != 1 || !strings.Contains(p.err.String(), "callees") {
		t.Errorf("exit status %d, stderr %q; want 1 and what may be asked", status, p.err.String())
	}
}

func TestHelpListsTheSettings(t *testing.T) {
	t.Parallel()
	p := solo(t, "", nil, "--help")
	if status := p.wait(within(t, 20*time.Second)); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	for _, want := range []string{"--set", "--config", "user.path", "server.listen", "clients.defaults.timeout"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("stdout does not name %q:\n%s", want, p.out.String())
		}
	}
}
