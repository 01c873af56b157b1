package examples_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// record is .newsvc/dev.json, written down here anew: other tools rely on these very names.
type record struct {
	Version int    `json:"version"`
	PID     int    `json:"pid"`
	Root    string `json:"root"`
	Etcd    struct {
		Endpoints []string `json:"endpoints"`
		Prefix    string   `json:"prefix"`
	} `json:"etcd"`
	Services map[string]struct {
		Instances []recordInstance `json:"instances"`
	} `json:"services"`
}

type recordInstance struct {
	PID   int    `json:"pid"`
	GRPC  string `json:"grpc"`
	Admin string `json:"admin"`
	HTTP  string `json:"http"`
}

// workspace is a directory in which newsvc dev is run.
type workspace struct {
	t    *testing.T
	root string
}

func newWorkspace(t *testing.T) *workspace {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir()) // what the process itself will say its directory is
	if err != nil {
		t.Fatal(err)
	}
	return &workspace{t, root}
}

func (w *workspace) write(path, text string) {
	w.t.Helper()
	path = filepath.Join(w.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// service adds a service whose main is given; it builds with the standard library alone.
func (w *workspace) service(name string, replicas int, main string) {
	w.t.Helper()
	w.write(name+"/newsvc.yaml", fmt.Sprintf("kind: service\nname: %s\ndev:\n  replicas: %d\n", name, replicas))
	w.write(name+"/go.mod", "module example.test/"+name+"\n\ngo 1.26\n")
	w.write(name+"/main.go", main)
}

// example adds one of the examples with its own files. Its main becomes the binary that was built from it: the same
// process without the minutes that a first build takes.
func (w *workspace) example(name string) {
	w.t.Helper()
	for _, file := range []string{"newsvc.yaml", "config.yaml"} {
		text, err := os.ReadFile(filepath.Join(repo(), "examples", name, file))
		if errors.Is(err, os.ErrNotExist) && file != "newsvc.yaml" {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(name+"/"+file, string(text))
	}
	w.write(name+"/go.mod", "module example.test/"+name+"\n\ngo 1.26\n")
	w.write(name+"/main.go", fmt.Sprintf(`package main

import (
	"os"
	"syscall"
)

func main() { panic(syscall.Exec(%q, os.Args, os.Environ())) }
`, binary(name)))
}

// serving is the main of a service that writes its ready file and runs until SIGTERM, which it obeys with status 0.
const serving = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	path := os.Getenv("NEWSVC_READY_FILE")
	text := fmt.Sprintf("{\"service\":\"plain\",\"pid\":%d}", os.Getpid())
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		panic(err)
	}
	fmt.Println("hello from", os.Getpid())
	<-stop
}
`

// finished is the main of a service that has nothing to do.
const finished = "package main\n\nfunc main() { println(\"nothing to do\") }\n"

// dev runs newsvc dev in the workspace.
func (w *workspace) dev(args ...string) *process {
	w.t.Helper()
	return launch(w.t, command{binary: binary("newsvc"), dir: w.root, args: append([]string{"dev"}, args...), env: w.alone()})
}

// alone keeps a newsvc dev from joining one that another test, or a person, runs on this machine.
func (w *workspace) alone() []string {
	w.t.Helper()
	cache, err := exec.CommandContext(w.t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	return []string{"XDG_CACHE_HOME=" + filepath.Join(w.root, ".cache"), "GOCACHE=" + strings.TrimSpace(string(cache))}
}

// record waits until dev.json is there and good is satisfied with it.
func (w *workspace) record(ctx context.Context, p *process, good func(record) bool) record {
	w.t.Helper()
	var r record
	var raw []byte
	eventually(ctx, w.t, func() string { return "dev.json is not as it should be: " + string(raw) }, func() bool {
		if !p.running() {
			w.t.Fatalf("newsvc dev ended with status %d", p.status)
		}
		var err error
		if raw, err = os.ReadFile(w.recordPath()); err != nil {
			return false
		}
		r = record{}
		if err := json.Unmarshal(raw, &r); err != nil {
			w.t.Fatalf("dev.json is no JSON: %v\n%s", err, raw)
		}
		return r.PID == p.pid() && good(r)
	})
	return r
}

func (w *workspace) recordPath() string { return filepath.Join(w.root, ".newsvc", "dev.json") }

// instances is a condition for record.
func instances(want map[string]int) func(record) bool {
	return func(r record) bool {
		for name, n := range want {
			if len(r.Services[name].Instances) != n {
				return false
			}
		}
		return len(r.Services) == len(want)
	}
}

// children are the processes in a record.
func (r record) children() []recordInstance {
	var all []recordInstance
	for _, s := range r.Services {
		all = append(all, s.Instances...)
	}
	return all
}

// stopped sends SIGINT once and sees that everything ends and nothing is left.
func (w *workspace) stopped(ctx context.Context, p *process, r record) {
	w.t.Helper()
	told := p.signal(syscall.SIGINT)
	if status := p.wait(ctx); status != 0 {
		w.t.Errorf("newsvc dev ended with status %d after SIGINT, want 0", status)
	}
	w.t.Logf("newsvc dev ended %s after SIGINT", p.at.Sub(told).Round(time.Millisecond))
	for _, child := range r.children() {
		if alive(child.PID) {
			w.t.Errorf("process %d is left", child.PID)
		}
		for _, addr := range []string{child.GRPC, child.Admin, child.HTTP} {
			if addr != "" && answers(ctx, addr) {
				w.t.Errorf("somebody still listens on %s", addr)
			}
		}
	}
	if _, err := os.Stat(w.recordPath()); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("dev.json is left: %v", err)
	}
}

// answers reports whether somebody listens on addr.
func answers(ctx context.Context, addr string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func TestDevRestartsWhatDiesAndNotWhatFinishes(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	w := newWorkspace(t)
	w.service("plain", 1, serving)
	w.service("once", 1, finished)
	p := w.dev("--etcd", startEtcd(t)[0], "--replicas", "plain=2")
	eventually(ctx, t, text("once is not reported as finished"), func() bool {
		return strings.Contains(p.out.String(), "finished (exit status 0); it is not started again")
	})
	r := w.record(ctx, p, instances(map[string]int{"plain": 2, "once": 0}))
	before := r.Services["plain"].Instances
	if err := syscall.Kill(before[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r = w.record(ctx, p, func(r record) bool {
		now := r.Services["plain"].Instances
		return len(now) == 2 && now[0].PID != before[0].PID && now[1].PID != before[0].PID
	})
	if now := r.Services["plain"].Instances; now[1] != before[1] || !alive(now[0].PID) {
		t.Errorf("instances %v after %v; want the killed one replaced and the other one left alone", now, before)
	}
	if n := strings.Count(p.out.String(), "nothing to do"); n != 1 {
		t.Errorf("a service that had finished was started %d times", n)
	}
	w.stopped(ctx, p, r)
}

func TestDevReplacesTheRecordOfOneThatWasKilled(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	etcd := startEtcd(t)[0]
	w := newWorkspace(t)
	w.service("plain", 1, serving)
	first := w.dev("--etcd", etcd)
	old := w.record(ctx, first, instances(map[string]int{"plain": 1}))
	first.signal(syscall.SIGKILL)
	first.wait(ctx)
	if _, err := os.Stat(w.recordPath()); err != nil {
		t.Fatalf("a killed newsvc dev can't remove its record, but it is gone: %v", err)
	}
	second := w.dev("--etcd", etcd)
	r := w.record(ctx, second, instances(map[string]int{"plain": 1}))
	if r.children()[0].PID == old.children()[0].PID {
		t.Errorf("the record still names process %d", old.children()[0].PID)
	}
	w.stopped(ctx, second, r)
}

func TestASecondDevInOneDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	etcd := startEtcd(t)[0]
	w := newWorkspace(t)
	w.service("plain", 1, serving)
	first := w.dev("--etcd", etcd)
	eventually(ctx, t, text("the first one does not begin"), func() bool { return strings.Contains(first.out.String(), "building") })
	early := w.dev("--etcd", etcd) // while the first one still builds
	r := w.record(ctx, first, instances(map[string]int{"plain": 1}))
	if status := early.wait(ctx); status != 3 {
		t.Errorf("exit status %d while the first one starts, want 3", status)
	}
	second := w.dev("--etcd", etcd)
	if status := second.wait(ctx); status != 3 {
		t.Errorf("exit status %d, want 3", status)
	}
	if remedy := fmt.Sprintf("kill -INT %d", first.pid()); !strings.Contains(second.err.String(), remedy) {
		t.Errorf("stderr %q does not say %q", second.err.String(), remedy)
	}
	if again := w.record(ctx, first, instances(map[string]int{"plain": 1})); again.children()[0] != r.children()[0] {
		t.Errorf("the first one's services are disturbed: %v after %v", again, r)
	}
	w.stopped(ctx, first, r)
}

func TestDevRefusesWhatCannotRun(t *testing.T) {
	t.Parallel()
	broken := "package main\n\nfunc main() { undeclared() }\n"
	for name, tt := range map[string]struct {
		fill   func(w *workspace)
		args   []string
		status int
		want   []string
	}{
		"no service":          {status: 5, want: []string{"no service found", "newsvc create"}},
		"does not build":      {fill: func(w *workspace) { w.service("broken", 1, broken) }, args: []string{"--no-watch"}, status: 1, want: []string{"broken does not build", "main.go:3", "undeclared"}},
		"unknown service":     {fill: func(w *workspace) { w.service("plain", 1, serving) }, args: []string{"plan"}, status: 2, want: []string{`"plan"`, "plain"}},
		"replicas of unknown": {fill: func(w *workspace) { w.service("plain", 1, serving) }, args: []string{"--replicas", "plan=2"}, status: 2, want: []string{`"plan"`, "plain"}},
		"replicas no number":  {fill: func(w *workspace) { w.service("plain", 1, serving) }, args: []string{"--replicas", "plain=two"}, status: 2, want: []string{"plain=two", "--replicas plain=3"}},
		"prefix":              {fill: func(w *workspace) { w.service("plain", 1, serving) }, args: []string{"--prefix", "newsvc"}, status: 2, want: []string{"--prefix", "newsvc"}},
		"bad marker":          {fill: func(w *workspace) { w.write("x/newsvc.yaml", "kind: service\nname: No_Name\n") }, status: 2, want: []string{"newsvc.yaml", "No_Name"}},
		"one name twice": {fill: func(w *workspace) {
			w.write("a/newsvc.yaml", "kind: service\nname: plain\n")
			w.write("b/newsvc.yaml", "kind: service\nname: plain\n")
		}, status: 2, want: []string{`"plain"`, "/a", "/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 60*time.Second)
			w := newWorkspace(t)
			if tt.fill != nil {
				tt.fill(w)
			}
			p := w.dev(append([]string{"--etcd", "127.0.0.1:1"}, tt.args...)...)
			if status := p.wait(ctx); status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(p.err.String(), want) {
					t.Errorf("stderr does not say %q:\n%s", want, p.err.String())
				}
			}
			if _, err := os.Stat(w.recordPath()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a dev.json: %v", err)
			}
		})
	}
}

func TestCtrlCEndsWhatNeverBecameReadyAndWhatItStarted(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	w := newWorkspace(t)
	// It never becomes ready, dies of SIGTERM, and has a process of its own that would outlive it.
	w.service("slow", 1, `package main

import (
	"fmt"
	"os/exec"
)

func main() {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println("grandchild", cmd.Process.Pid)
	_ = cmd.Wait()
}
`)
	p := w.dev("--etcd", startEtcd(t)[0])
	grandchild := 0
	eventually(ctx, t, text("the service does not start"), func() bool {
		_, after, ok := strings.Cut(p.out.String(), "grandchild ")
		if !ok || !strings.Contains(after, "\n") {
			return false
		}
		_, err := fmt.Sscan(after, &grandchild)
		return err == nil
	})
	p.signal(syscall.SIGINT)
	if status := p.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	eventually(ctx, t, text("process %d, started by a service, is left", grandchild), func() bool { return !alive(grandchild) })
}

func TestDevStartsAnEtcdOfItsOwnWhichKeepsNothingOfTheLastRun(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	w := newWorkspace(t)
	w.example(userService)
	args := []string{"--replicas", userService + "=1"}
	first := w.dev(args...)
	old := w.record(ctx, first, instances(map[string]int{userService: 1}))
	first.signal(syscall.SIGKILL) // nothing is withdrawn: the lease is longer than the rest of this test
	first.wait(ctx)
	second := w.dev(args...)
	r := w.record(ctx, second, instances(map[string]int{userService: 1}))
	if len(r.Etcd.Endpoints) != 1 || r.Etcd.Prefix != "/newsvc/default" {
		t.Fatalf("dev.json says of etcd: %+v", r.Etcd)
	}
	keys, err := newCluster(t, r.Etcd.Endpoints).keys(ctx)
	want := r.children()[0].GRPC
	if err != nil || len(keys) != 1 || keys["/newsvc/default/user-service/"+want] == 0 {
		t.Errorf("registered are %v, %v; want %s and not %s", keys, err, want, old.children()[0].GRPC)
	}
	w.stopped(ctx, second, r)
	if answers(ctx, r.Etcd.Endpoints[0]) {
		t.Errorf("somebody still listens on %s", r.Etcd.Endpoints[0])
	}
}

// reflected are the services that somebody offers by reflection.
func reflected(ctx context.Context, t *testing.T, addr string) ([]string, error) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	stream, err := reflection.NewServerReflectionClient(cc).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.Send(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{}}) // Recv says why not
	res, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names, nil
}

// One and the same program shows its contract to a developer, and to nobody else.
func TestReflectionIsOnUnderDevAlone(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 60*time.Second)
			var lc net.ListenConfig
			probe, err := lc.Listen(ctx, "tcp", listen)
			if err != nil {
				t.Skipf("this machine has no %s: %v", name, err)
			}
			_ = probe.Close()
			w := newWorkspace(t)
			w.example(userService)
			env := append(w.alone(), "USER_SERVICE__SERVER__LISTEN="+listen)
			p := launch(t, command{binary: binary("newsvc"), dir: w.root, env: env, args: []string{"dev", "--etcd", startEtcd(t)[0], "--replicas", userService + "=1"}})
			r := w.record(ctx, p, instances(map[string]int{userService: 1}))
			addr := r.children()[0].GRPC
			if names, err := reflected(ctx, t, addr); err != nil || !slices.Contains(names, "user.v1.UserService") {
				t.Errorf("under newsvc dev reflection says %q, %v", names, err)
			}
			line := "grpcurl -plaintext " + addr + " list\n"
			if name == "IPv6" {
				line = "grpcurl -plaintext '" + addr + "' list\n"
			}
			eventually(ctx, t, text("newsvc dev does not print %q", line), func() bool { return strings.Contains(p.out.String(), line) })
			w.stopped(ctx, p, r)

			outside := launch(t, command{binary: filepath.Join(w.root, ".newsvc", "bin", userService+"-1"), dir: filepath.Join(w.root, userService), env: []string{
				"USER_SERVICE__SERVER__LISTEN=" + listen, "USER_SERVICE__ADMIN__LISTEN=127.0.0.1:0", "USER_SERVICE__REGISTRATION__ENABLED=false",
			}})
			if names, err := reflected(ctx, t, outside.awaitReady(ctx).GRPC); status.Code(err) != codes.Unimplemented {
				t.Errorf("outside of newsvc dev reflection says %q, %v; want Unimplemented", names, err)
			}
		})
	}
}

func TestDevTakesAnotherPortForHTTPWhenItsOwnIsBusy(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	var lc net.ListenConfig
	busy, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, port, err := net.SplitHostPort(busy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkspace(t)
	w.example("gateway")
	w.write("gateway/config.yaml", "http:\n  listen: \":"+port+"\"\n")
	p := w.dev("--etcd", startEtcd(t)[0])
	r := w.record(ctx, p, instances(map[string]int{"gateway": 1}))
	addr := r.children()[0].HTTP
	if host, other, err := net.SplitHostPort(addr); err != nil || host != "127.0.0.1" || other == port {
		t.Errorf("HTTP is at %q; want another port of the loopback interface than %s", addr, port)
	}
	eventually(ctx, t, text("newsvc dev does not say that HTTP is at %s because %s is busy", addr, port), func() bool {
		return strings.Contains(p.out.String(), "http://"+addr) && strings.Contains(p.out.String(), port)
	})
	// Nobody serves users here: the answer says who is missing. Where they were looked for is nothing for browsers.
	a := newBrowser(t, addr).do(ctx, 504, "GET", "/v1/users", "")
	for _, want := range []string{"user-service", "no instance"} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("%s does not name %q", a.body, want)
		}
	}
	w.stopped(ctx, p, r)
}
