package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const instanceHeader = "X-Newsvc-Instance"

// browser speaks HTTP to a gateway.
type browser struct {
	t      *testing.T
	base   string
	client *http.Client
}

func newBrowser(t *testing.T, addr string) *browser {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &browser{t, "http://" + addr, &http.Client{Transport: tr}}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// json reads the body as an object.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%q is no JSON object: %v", a.body, err)
	}
	return v
}

func (b *browser) try(ctx context.Context, method, path, body string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := b.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, text}, err
}

// do wants this status.
func (b *browser) do(ctx context.Context, status int, method, path, body string) answer {
	b.t.Helper()
	a, err := b.try(ctx, method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if a.status != status {
		b.t.Errorf("%s %s %s: status %d, want %d: %s", method, path, body, a.status, status, a.body)
	}
	return a
}

// TestDevRunsTheExamples is the quick start of the README and what follows from it, on one newsvc dev.
func TestDevRunsTheExamples(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	w := newWorkspace(t)
	w.example(userService)
	w.example("gateway")
	etcd := newCluster(t, startEtcd(t))
	p := w.dev("--etcd", etcd.endpoints[0], "--prefix", "/newsvc/e2e")
	all := map[string]int{userService: 3, "gateway": 1}
	r := w.record(ctx, p, instances(all))
	if r.Version != 1 || r.Root != w.root || !slices.Equal(r.Etcd.Endpoints, etcd.endpoints) || r.Etcd.Prefix != "/newsvc/e2e" {
		t.Errorf("dev.json says %+v", r)
	}
	for _, i := range r.Services[userService].Instances {
		if !alive(i.PID) || !answers(ctx, i.GRPC) || !answers(ctx, i.Admin) || i.HTTP != "" {
			t.Errorf("user-service instance %+v; want a process with gRPC and admin server and no HTTP", i)
		}
	}
	edge := r.Services["gateway"].Instances[0]
	if !alive(edge.PID) || !answers(ctx, edge.HTTP) || !answers(ctx, edge.Admin) || edge.GRPC != "" {
		t.Errorf("gateway instance %+v; want a process with HTTP and admin server and no gRPC", edge)
	}
	b := newBrowser(t, edge.HTTP)
	for name, test := range map[string]func(context.Context, *testing.T, *browser){
		"users":  usersOverHTTP,
		"errors": errorsOverHTTP,
		"pages":  pagesOverHTTP,
		"watch":  watchOverHTTP,
		"all instances answer and share their data": instancesOverHTTP,
		"page and document":                         documentsOverHTTP,
	} {
		t.Run(name, func(t *testing.T) { test(ctx, t, &browser{t, b.base, b.client}) })
	}
	killed := r.Services[userService].Instances[1]
	calls := b.begin(ctx)
	if err := syscall.Kill(killed.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r = w.record(ctx, p, func(r record) bool {
		return instances(all)(r) && !slices.ContainsFunc(r.children(), func(i recordInstance) bool { return i.PID == killed.PID })
	})
	calls.end(t)
	w.stopped(ctx, p, r)
	left, err := etcd.etcd.Get(ctx, "/newsvc/e2e/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	// What was killed is known until its lease ends; what was stopped is not.
	if err != nil || slices.ContainsFunc(left.Kvs, keyNot(killed.GRPC)) {
		t.Errorf("registered after the stop: %v, %v", left.Kvs, err)
	}
}

func usersOverHTTP(ctx context.Context, t *testing.T, b *browser) {
	made := b.do(ctx, 200, "POST", "/v1/users", `{"user":{"email":"ada@example.com","displayName":"Ada"}}`).json(t)
	id, _ := made["id"].(string)
	if id == "" || made["email"] != "ada@example.com" || made["displayName"] != "Ada" || made["createTime"] == nil {
		t.Fatalf("POST answers %v; want the user with its id and times", made)
	}
	path := "/v1/users/" + id
	if got := b.do(ctx, 200, "GET", path, "").json(t); fmt.Sprint(got) != fmt.Sprint(made) {
		t.Errorf("GET answers %v, POST answered %v", got, made)
	}
	if got := b.do(ctx, 200, "PATCH", path, `{"user":{"email":"no@example.com","displayName":"Ada L."},"updateMask":"displayName"}`).json(t); got["displayName"] != "Ada L." || got["email"] != "ada@example.com" {
		t.Errorf("PATCH of displayName answers %v", got)
	}
	b.do(ctx, 200, "DELETE", path, "")
	b.do(ctx, 404, "GET", path, "")
	b.do(ctx, 404, "DELETE", path, "")
}

func errorsOverHTTP(ctx context.Context, t *testing.T, b *browser) {
	b.do(ctx, 200, "POST", "/v1/users", `{"user":{"email":"taken@example.com"}}`)
	for _, tt := range []struct {
		status             int
		method, path, body string
		want               []string
	}{
		{404, "GET", "/v1/users/unknown", "", []string{`"code":5`, "unknown"}},
		{404, "GET", "/v2/users", "", nil},
		{400, "POST", "/v1/users", `{"user":`, []string{`"code":3`}},
		{400, "POST", "/v1/users", `{"user":{"emial":"x@example.com"}}`, []string{"emial"}},
		{400, "POST", "/v1/users", `{"user":{"email":"no address"}}`, []string{`"code":3`, "BadRequest", `"field":"user.email"`}},
		{400, "POST", "/v1/users", `{"user":{"displayName":"nobody"}}`, []string{`"code":3`, `"field":"user`}},
		{400, "POST", "/v1/users", `{}`, []string{`"field":"user"`}},
		{409, "POST", "/v1/users", `{"user":{"email":"Taken@example.com"}}`, []string{`"code":6`, "ResourceInfo"}},
		{400, "GET", "/v1/users?pageSize=1001", "", []string{`"field":"page_size"`}},
		{400, "GET", "/v1/users?pageToken=x", "", []string{`"code":3`}},
		{405, "PUT", "/v1/users", "", nil},
	} {
		a := b.do(ctx, tt.status, tt.method, tt.path, tt.body)
		body := strings.ReplaceAll(string(a.body), `": `, `":`)
		for _, want := range tt.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s %s %s: %s does not say %s", tt.method, tt.path, tt.body, body, want)
			}
		}
	}
}

func pagesOverHTTP(ctx context.Context, t *testing.T, b *browser) {
	want := map[string]bool{}
	for i := range 7 {
		made := b.do(ctx, 200, "POST", "/v1/users", fmt.Sprintf(`{"user":{"email":"page%d@example.com"}}`, i)).json(t)
		want[made["id"].(string)] = true
	}
	seen, last, token, pages := map[string]bool{}, "", "", 0
	for {
		var page struct {
			Users         []struct{ ID string }
			NextPageToken string
		}
		a := b.do(ctx, 200, "GET", "/v1/users?pageSize=3&pageToken="+url.QueryEscape(token), "")
		if err := json.Unmarshal(a.body, &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Users) > 3 {
			t.Fatalf("a page of %d users, want 3 at the most", len(page.Users))
		}
		for _, u := range page.Users {
			if u.ID <= last {
				t.Errorf("%q after %q: out of order or repeated", u.ID, last)
			}
			last, seen[u.ID] = u.ID, true
		}
		pages++
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	for id := range want {
		if !seen[id] {
			t.Errorf("%d pages do not hold user %s", pages, id)
		}
	}
	if pages < 3 {
		t.Errorf("%d pages, want 3 at least", pages)
	}
}

func watchOverHTTP(ctx context.Context, t *testing.T, b *browser) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", b.base+"/v1/users:watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	next := func() string {
		for in.Scan() {
			if line := in.Text(); line != "" {
				return line
			}
		}
		t.Fatalf("the watch ended: %v", in.Err())
		return ""
	}
	if line := next(); !strings.Contains(line, "KIND_SYNC") {
		t.Fatalf("the watch begins with %s, want the sync", line)
	}
	for i := range 3 {
		email := fmt.Sprintf("watch%d@example.com", i)
		b.do(ctx, 200, "POST", "/v1/users", `{"user":{"email":"`+email+`"}}`)
		if line := next(); !strings.Contains(line, "KIND_CREATED") || !strings.Contains(line, email) {
			t.Errorf("the watch shows %s, want that %s was created", line, email)
		}
	}
}

func instancesOverHTTP(ctx context.Context, t *testing.T, b *browser) {
	id := b.do(ctx, 200, "POST", "/v1/users", `{"user":{"email":"shared@example.com"}}`).json(t)["id"].(string)
	get := func() string { return b.do(ctx, 200, "GET", "/v1/users/"+id, "").header.Get(instanceHeader) }
	soon, cancel := context.WithTimeout(ctx, time.Second) // instances that came together may be known one after the other
	defer cancel()
	known := map[string]bool{}
	eventually(soon, t, func() string { return fmt.Sprintf("%s says %v only", instanceHeader, known) }, func() bool {
		known[get()] = true
		return len(known) == 3
	})
	answered := map[string]int{}
	for range 30 {
		answered[get()]++
	}
	for addr := range known {
		if answered[addr] < 9 || answered[addr] > 11 || addr == "" {
			t.Errorf("%s says %v; want each of three instances in turn", instanceHeader, answered)
		}
	}
}

func documentsOverHTTP(ctx context.Context, t *testing.T, b *browser) {
	if a := b.do(ctx, 200, "GET", "/", ""); !bytes.Contains(a.body, []byte("<html")) || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("GET / answers %q: %.200s", a.header.Get("Content-Type"), a.body)
	}
	doc := b.do(ctx, 200, "GET", "/openapi.json", "").json(t)
	paths, _ := doc["paths"].(map[string]any)
	for _, path := range []string{"/v1/users", "/v1/users/{id}", "/v1/users:watch"} {
		if paths[path] == nil {
			t.Errorf("the OpenAPI document does not have %s", path)
		}
	}
}

// keyNot tells keys that do not end in addr.
func keyNot(addr string) func(kv *mvccpb.KeyValue) bool {
	return func(kv *mvccpb.KeyValue) bool { return !strings.HasSuffix(string(kv.Key), "/"+addr) }
}

// httpLoad is a stream of reads through a gateway.
type httpLoad struct {
	cancel context.CancelFunc
	ended  sync.WaitGroup
	began  time.Time
	calls  atomic.Int64
	mu     sync.Mutex
	failed []string
}

func (b *browser) begin(ctx context.Context) *httpLoad {
	b.t.Helper()
	id := b.do(ctx, 200, "POST", "/v1/users", `{"user":{"email":"load@example.com"}}`).json(b.t)["id"].(string)
	run, cancel := context.WithCancel(ctx)
	l := &httpLoad{cancel: cancel, began: time.Now()}
	tokens := make(chan struct{}, loadRate)
	l.ended.Go(func() { pace(run, loadRate, tokens) })
	for range 16 {
		l.ended.Go(func() {
			for range tokens {
				a, err := b.try(ctx, "GET", "/v1/users/"+id, "")
				l.calls.Add(1)
				if err == nil && a.status != 200 {
					err = fmt.Errorf("status %d: %s", a.status, a.body)
				}
				if err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, err.Error())
					l.mu.Unlock()
				}
			}
		})
	}
	b.t.Cleanup(func() { cancel(); l.ended.Wait() })
	eventually(ctx, b.t, text("the load does not begin"), func() bool { return l.calls.Load() > 50 })
	return l
}

func (l *httpLoad) end(t *testing.T) {
	t.Helper()
	l.cancel()
	took := time.Since(l.began)
	l.ended.Wait()
	rate := float64(l.calls.Load()) / took.Seconds()
	t.Logf("%d requests in %s (%.0f a second), %d failed", l.calls.Load(), took.Round(time.Millisecond), rate, len(l.failed))
	if rate < leastRate {
		t.Errorf("%.0f requests a second are too few to say anything; want %d", rate, leastRate)
	}
	if len(l.failed) > 0 {
		t.Errorf("%d requests failed:\n%s", len(l.failed), strings.Join(l.failed[:min(20, len(l.failed))], "\n"))
	}
}

func TestTheGatewayTellsNoAddressesOutsideDev(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	c := newCluster(t, startEtcd(t))
	c.start(ctx, 1)
	p := launch(t, command{binary: binary("gateway"), env: []string{
		"GATEWAY__HTTP__LISTEN=127.0.0.1:0", "GATEWAY__ADMIN__LISTEN=127.0.0.1:0", "GATEWAY__ETCD__ENDPOINTS=" + c.endpoints[0],
	}})
	b := newBrowser(t, p.awaitReady(ctx).HTTP)
	a := b.do(ctx, 200, "POST", "/v1/users", `{"user":{"email":"ada@example.com"}}`)
	for key, values := range a.header {
		if key == instanceHeader || strings.Contains(strings.Join(values, " "), "127.0.0.1") {
			t.Errorf("header %s: %v tells an address", key, values)
		}
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}
