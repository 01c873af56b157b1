//go:build unix

package devtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/framework/stack"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const (
	userService = "user-service"
	versionKey  = "x-version"
)

// versioned is a main of user-service that says its version in each answer.
const versioned = `package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"example.test/reload/user-service/internal/user"
	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/server"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const version = "v0"

func main() {
	app.Run("user-service",
		app.Config("user", user.DefaultConfig()),
		app.Provide(user.NewStore),
		app.Server(server.After(server.SlotValidation, server.Interceptor{Name: "version", Unary: tell})),
		app.Serve(userv1.RegisterUserServiceServer, user.NewServer),
	)
}

func tell(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-version", version))
	return handler(ctx, req)
}
`

// examples copies the two examples into a module of their own, where they can be edited.
func examples(t *testing.T, p *place) {
	t.Helper()
	root := repo(t)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const module = "module github.com/newsvc/newsvc"
	p.write("go.mod", strings.Replace(read("go.mod"), module, "module example.test/reload", 1)+
		fmt.Sprintf("\nrequire github.com/newsvc/newsvc v0.0.0\n\nreplace github.com/newsvc/newsvc => %s\n", root))
	p.write("go.sum", read("go.sum"))
	source := filepath.Join(root, "examples/user-service/internal/user")
	files, err := filepath.Glob(filepath.Join(source, "*.go"))
	migrations, sqlErr := filepath.Glob(filepath.Join(source, "migrations/*.sql"))
	if err = errors.Join(err, sqlErr); err != nil || len(files) == 0 || len(migrations) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	for _, f := range slices.Concat(files, migrations) {
		if rel, _ := filepath.Rel(root, f); !strings.HasSuffix(rel, "_test.go") {
			p.write(strings.TrimPrefix(filepath.ToSlash(rel), "examples/"), read(rel))
		}
	}
	p.write("user-service/newsvc.yaml", "kind: service\nname: user-service\ndev:\n  replicas: 2\n")
	p.write("user-service/main.go", versioned)
	p.write("gateway/newsvc.yaml", "kind: service\nname: gateway\n")
	p.write("gateway/config.yaml", "http:\n  listen: \":0\"\nclients:\n  user-service:\n    timeout: \"20s\"\n")
	p.write("gateway/main.go", read("examples/gateway/main.go")+"\nconst version = \"v0\"\n\nfunc init() { println(\"gateway\", version) }\n")
}

// load is what callers do while files are saved.
type load struct {
	t     *testing.T
	users userv1.UserServiceClient
	http  *http.Client
	base  string
	id    string
	end   context.CancelFunc
	all   sync.WaitGroup

	calls, streams atomic.Int64
	commands       atomic.Int64
	serial         atomic.Int64

	mu     sync.Mutex
	failed []string
	first  map[string]time.Time // when a version answered for the first time
}

// begin has eight callers call until stop.
func begin(ctx context.Context, t *testing.T, endpoints []string, base string) *load {
	t.Helper()
	run, end := context.WithCancel(context.Background())
	l := &load{t: t, users: caller(ctx, t, endpoints), base: base, end: end, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 30 * time.Second}, first: map[string]time.Time{}}
	res, err := l.users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: "first@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	l.id = res.GetUser().GetId()
	for _, call := range []func(context.Context) error{l.create, l.create, l.get, l.get, l.browse, l.post} {
		l.all.Go(func() { l.repeat(run, call) })
	}
	for range 2 {
		l.all.Go(func() { l.watch(run) })
	}
	t.Cleanup(l.stop)
	eventually(ctx, t, "all callers call", func() bool { return l.calls.Load() > 50 && l.streams.Load() >= 2 })
	return l
}

// look has people list and call the service, one command after the other, until stop: each finds two instances at least.
func (l *load) look(ctx context.Context, p *place) {
	l.all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			args := []string{"ls", userService, "-o", "json"}
			if i%4 == 3 { // a process of its own is dear
				args = []string{"call", userService, "GetUser", "-d", fmt.Sprintf(`{"id":%q}`, l.id)}
			}
			out, err := p.command(context.Background(), args...).CombinedOutput()
			switch {
			case err != nil:
				l.fail(fmt.Errorf("newsvc %v: %w: %s", args, err, out))
			case args[0] == "ls" && strings.Count(string(out), `"address"`) < 2:
				l.fail(fmt.Errorf("newsvc ls says %s", out))
			}
			l.commands.Add(1)
		}
	})
}

func (l *load) stop() {
	l.end()
	l.all.Wait()
	l.http.CloseIdleConnections()
}

// caller makes this process a caller of user-service.
func caller(ctx context.Context, t *testing.T, endpoints []string) userv1.UserServiceClient {
	t.Helper()
	cfg := stack.DefaultConfig()
	cfg.Admin.Enabled = false
	cfg.Etcd.Endpoints = endpoints
	cfg.ClientDefaults.Timeout = 20 * time.Second // the machine may have much else to do
	log, levels, err := stack.NewLog(cfg, "caller", true, &lines{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := stack.New(stack.Params{Service: "caller", Config: cfg, Callees: []string{userService}, Log: log, Levels: levels})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.Close(ctx) // newsvc dev may be gone by now
	})
	if err := s.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := s.Clients().Conn(userService)
	if err != nil {
		t.Fatal(err)
	}
	return userv1.NewUserServiceClient(conn)
}

// repeat calls about forty times a second until ctx ends; a call that was begun is finished.
func (l *load) repeat(ctx context.Context, call func(context.Context) error) {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := call(context.Background()); err != nil {
			l.fail(err)
		}
		l.calls.Add(1)
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, time.Now().Format("15:04:05.000 ")+err.Error())
}

func (l *load) saw(header metadata.MD) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range header.Get(versionKey) {
		if l.first[v].IsZero() {
			l.first[v] = now
		}
	}
}

func (l *load) seen(version string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first[version]
}

func (l *load) email() string { return fmt.Sprintf("%d@example.com", l.serial.Add(1)) }

// create is not idempotent, so nobody repeats it.
func (l *load) create(ctx context.Context) error {
	var header metadata.MD
	_, err := l.users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: l.email()}}, grpc.Header(&header))
	l.saw(header)
	return err
}

func (l *load) get(ctx context.Context) error {
	var header metadata.MD
	_, err := l.users.GetUser(ctx, &userv1.GetUserRequest{Id: l.id}, grpc.Header(&header))
	l.saw(header)
	return err
}

func (l *load) browse(ctx context.Context) error {
	return l.request(ctx, http.MethodGet, "/v1/users/"+l.id, "")
}

func (l *load) post(ctx context.Context) error {
	return l.request(ctx, http.MethodPost, "/v1/users", fmt.Sprintf(`{"user":{"email":%q}}`, l.email()))
}

func (l *load) request(ctx context.Context, method, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	res, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	return err
}

// watch follows the users, and subscribes again when a stream ends: because its server leaves, and for no other reason.
func (l *load) watch(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := l.users.WatchUsers(ctx, &userv1.WatchUsersRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.fail(fmt.Errorf("subscribing: %w", err))
			return
		}
		l.streams.Add(1)
		for err == nil {
			_, err = stream.Recv()
		}
		if ctx.Err() == nil && status.Code(err) != codes.Unavailable && !errors.Is(err, io.EOF) {
			l.fail(fmt.Errorf("a subscription ended: %w", err))
		}
	}
}

// save is one of the saves under load, and what is to come of it.
type save struct {
	file, old, text string
	says            string // what newsvc dev says of one that is not to serve
	version         string // of user-service, that is to serve then
}

// saves are ten, of which two are broken and one exits at its start.
func saves() []save {
	const users, edge = "user-service/main.go", "gateway/main.go"
	version := func(from, to string) save {
		return save{file: users, old: `version = "` + from + `"`, text: `version = "` + to + `"`, version: to}
	}
	return []save{
		version("v0", "v1"),
		{file: users, old: "return handler(ctx, req)", text: "return handler(ctx, request)", says: "main.go:28:22: undefined: request"},
		{file: users, old: "return handler(ctx, request)\n}", text: "return handler(ctx, req)\n}\n\nfunc init() { panic(\"at the start\") }", says: "after its start (exit status 2); the previous version goes on serving"},
		{file: users, old: `panic("at the start")`, text: `println("fine again")`, version: "v1"},
		version("v1", "v2"),
		{file: edge, old: `version = "v0"`, text: `version = "v1"`, says: "gateway v1"},
		{file: edge, old: `version = "v1"`, text: `version = v1`, says: "undefined: v1"},
		{file: edge, old: `version = v1`, text: `version = "v2"`, says: "gateway v2"},
		version("v2", "v3"),
		version("v3", "v4"),
	}
}

func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	ctx := within(t, 8*time.Minute)
	p := newUser(t).place()
	examples(t, p)
	r := p.dev([]string{"USER_SERVICE__USER__PATH=" + p.path("users.db"), "USER_SERVICE__USER__BUSY_TIMEOUT=20s"}, "--etcd", "embedded")
	rec := r.complete(ctx)
	if out := r.out.String(); strings.Contains(out, "has no instances") {
		t.Errorf("the gateway was started before those that it calls:\n%s", out)
	}
	edge := rec.Services["gateway"].Instances[0].HTTP
	l := begin(ctx, t, rec.Etcd.Endpoints, "http://"+edge)
	looking, enough := context.WithCancel(ctx)
	defer enough()
	l.look(looking, p)
	all := saves()
	if os.Getenv("NEWSVC_TEST_CLI") != "1" {
		all = slices.Concat(all[:4], all[5:6])
	}
	var late []time.Duration
	for i, s := range all {
		before := r.complete(ctx)
		from, at := len(r.out.String()), time.Now()
		p.change(s.file, s.old, s.text)
		if s.says != "" {
			r.saysSince(ctx, from, s.says)
		}
		service, _, _ := strings.Cut(s.file, "/")
		if s.says != "" && !strings.HasPrefix(s.says, "gateway") {
			if now := pids(r.complete(ctx), service); !slices.Equal(now, pids(before, service)) {
				t.Errorf("save %d: the processes were %v and are %v", i, pids(before, service), now)
			}
			continue
		}
		if s.version != "" && l.seen(s.version).IsZero() {
			eventually(ctx, t, s.version+" answers", func() bool { return !l.seen(s.version).IsZero() })
			late = append(late, l.seen(s.version).Sub(at)-built(t, r, from))
		}
		r.saysSince(ctx, from, "reloaded in ")
		r.saysSince(ctx, from, "the previous version is gone")
		r.record(ctx, func(now devrecord.Record) bool {
			return len(pids(now, service)) == len(pids(before, service)) && !slices.ContainsFunc(pids(now, service), func(pid int) bool { return slices.Contains(pids(before, service), pid) })
		})
	}
	enough()
	l.stop()
	if now := r.complete(ctx).Services["gateway"].Instances[0].HTTP; now != edge {
		t.Errorf("the gateway is at %s and was at %s", now, edge)
	}
	slices.Sort(late)
	t.Logf("%d calls, %d subscriptions and %d commands through %d saves; a new version answered after its build time and %v", l.calls.Load(), l.streams.Load(), l.commands.Load(), len(all), late)
	if len(l.failed) > 0 {
		t.Errorf("%d failed:\n%s", len(l.failed), strings.Join(l.failed[:min(20, len(l.failed))], "\n"))
	}
	// The machine may have much else to do for the length of one save, and not for that of most.
	if len(late) == 0 || late[(len(late)-1)/2] > 2*time.Second {
		t.Errorf("a new version answered after its build time and %v, want at most 2s, as a median", late)
	}
	if out := r.out.String(); !strings.Contains(out, "; 0 of ") || strings.Contains(out, "did not finish its work") {
		t.Errorf("newsvc dev counts failed calls, or cut some")
	}
	if !regexp.MustCompile(`gateway +> the previous version is gone after [^;]*; 0 of [1-9][0-9]* calls during the change failed`).MatchString(r.out.String()) {
		t.Errorf("newsvc dev counts no requests of HTTP")
	}
}

// built is the build time that newsvc dev tells for the reload behind the first from bytes.
func built(t *testing.T, r *running, from int) time.Duration {
	t.Helper()
	r.saysSince(t.Context(), from, "built in ")
	_, text, _ := strings.Cut(r.out.String()[from:], "built in ")
	text, _, _ = strings.Cut(text, ",")
	text, _, _ = strings.Cut(text, "\n")
	d, err := time.ParseDuration(strings.TrimSuffix(strings.TrimSpace(text), ";"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
