//go:build unix

package devtest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// edge is the main of a service that takes over the public socket of newsvc dev and answers with its version, as those on the
// framework do, whose place is taken by a package of the same name. At /finish it ends by itself.
const edge = `package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/newsvc/newsvc/framework/stack"
)

const version = "one"

func main() {
	if os.Getenv("NEWSVC_INTROSPECT") != "" {
		fmt.Printf("{\"http\":true,\"values\":[{\"key\":\"http.listen\",\"value\":%q}]}", os.Getenv("EDGE_LISTEN"))
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	l, err := net.FileListener(os.NewFile(3, "http"))
	if err != nil {
		panic(err)
	}
	_ = os.NewFile(3, "http").Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, version)
		if r.URL.Path == "/finish" {
			stop <- syscall.SIGTERM
		}
	}))
	path := os.Getenv("NEWSVC_READY_FILE")
	text := fmt.Sprintf("{\"service\":\"edge\",\"pid\":%d,\"http\":%q}", os.Getpid(), l.Addr())
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		panic(err)
	}
	<-stop
	l.Close()
	fmt.Println("edge left", version)
}
`

// edge adds such a service.
func (p *place) edge(dev ...string) {
	p.t.Helper()
	p.service("edge", edge, dev...)
	p.onFramework("edge")
}

// onFramework has a service be built on a framework of which there is the name.
func (p *place) onFramework(service string) {
	p.t.Helper()
	p.write(service+"/go.mod", "module example.test/"+service+"\n\ngo 1.26\n\nrequire github.com/newsvc/newsvc v0.0.0\n\nreplace github.com/newsvc/newsvc => ../fake\n")
	p.write("fake/go.mod", "module github.com/newsvc/newsvc\n\ngo 1.26\n")
	p.write("fake/framework/stack/stack.go", "package stack\n")
}

// get asks for a path and returns the answer.
func get(ctx context.Context, addr, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// refuses waits until nobody takes connections.
func refuses(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	eventually(ctx, t, addr+" refuses connections", func() bool {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func httpOf(rec devrecord.Record, service string) string {
	for _, i := range rec.Services[service].Instances {
		return i.HTTP
	}
	return ""
}

// slow ends when a file says so.
var slow = strings.Replace(strings.Replace(plain, `fmt.Println("left", version)`, `fmt.Println("slow drains")
	for {
		if _, err := os.Stat("end"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("slow left")`, 1), `	"syscall"`, `	"syscall"
	"time"`, 1)

// While one service drains, who calls another one that has ended is to hear of it, and not to wait.
func TestAPublicPortIsClosedWhenItsServiceHasStopped(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.edge("replicas: 2")
	p.service("slow", slow)
	r := p.dev([]string{"EDGE_LISTEN=127.0.0.1:0"}, "--etcd", "127.0.0.1:1")
	rec := r.complete(ctx)
	children := slices.Concat(pids(rec, "edge"), pids(rec, "slow"))
	addr := httpOf(rec, "edge")
	if text, err := get(ctx, addr, "/"); err != nil || text != "one" {
		t.Fatalf("edge says %q %v", text, err)
	}
	p.change("edge/main.go", `"one"`, `"two"`) // the socket is that of the first start still
	r.says(ctx, "the previous version is gone")
	if text, err := get(ctx, addr, "/"); err != nil || text != "two" {
		t.Fatalf("edge says %q %v", text, err)
	}
	r.signal(syscall.SIGINT)
	r.says(ctx, "slow drains")
	r.says(ctx, "edge left two")
	refuses(ctx, t, addr)
	if strings.Contains(r.out.String(), "slow left") {
		t.Fatal("the other service has ended meanwhile")
	}
	p.write("slow/end", "")
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	r.leftNothing(children)
}

// A process that has not ended yet keeps its own copy, and serves as long as it wants to.
func TestAPublicPortServesUntilItsProcessClosesIt(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.edge()
	p.change("edge/main.go", "	l.Close()\n", "	fmt.Println(\"edge drains\")\n	var one [1]byte\n	pipe, err := os.Open(\"go\")\n	if err != nil {\n		panic(err)\n	}\n	pipe.Read(one[:])\n	l.Close()\n	fmt.Println(\"edge is closed\")\n	pipe.Read(one[:])\n")
	if err := syscall.Mkfifo(p.path("edge/go"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := p.dev([]string{"EDGE_LISTEN=127.0.0.1:0"}, "--etcd", "127.0.0.1:1")
	addr := httpOf(r.complete(ctx), "edge")
	r.signal(syscall.SIGINT)
	r.says(ctx, "edge drains")
	if text, err := get(ctx, addr, "/"); err != nil || text != "one" {
		t.Errorf("while it drains, edge says %q %v", text, err)
	}
	pipe := openWriter(t, p.path("edge/go"))
	_, _ = pipe.Write([]byte("x"))
	r.says(ctx, "edge is closed")
	refuses(ctx, t, addr)
	if strings.Contains(r.out.String(), "edge left") {
		t.Error("edge has ended meanwhile")
	}
	_ = pipe.Close()
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

// A service that has finished is not started again, but by a save; it gets its port back then.
func TestAPublicPortOfAFinishedServiceIsClosedUntilASave(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.edge()
	p.service("plain", plain)
	l := listen(t, "127.0.0.1:0")
	want := l.Addr().String()
	_ = l.Close()
	r := p.dev([]string{"EDGE_LISTEN=" + want}, "--etcd", "127.0.0.1:1")
	r.complete(ctx)
	if text, err := get(ctx, want, "/finish"); err != nil || text != "one" {
		t.Fatalf("edge says %q %v", text, err)
	}
	r.says(ctx, "finished (exit status 0); it is not started again")
	refuses(ctx, t, want)
	p.change("edge/main.go", `"one"`, `"two"`)
	r.says(ctx, "reloaded in ")
	if text, err := get(ctx, want, "/"); err != nil || text != "two" {
		t.Errorf("edge says %q %v", text, err)
	}
}

// A new address that comes with a program that does not start leaves the old one with its own, even when it dies.
func TestAPublicPortIsKeptWhenTheNewProgramDoesNotStart(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	p := newUser(t).place()
	p.edge()
	p.change("edge/main.go", `os.Getenv("EDGE_LISTEN")`, `listen`)
	p.change("edge/main.go", `const version = "one"`, "const version = \"one\"\n\nconst listen = \"127.0.0.1:0\"\n\nfunc begin() {}")
	p.change("edge/main.go", "	stop := make", "	begin()\n	stop := make")
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	rec := r.complete(ctx)
	addr := httpOf(rec, "edge")
	p.change("edge/main.go", "listen = \"127.0.0.1:0\"\n\nfunc begin() {}", "listen = \"127.0.0.2:0\"\n\nfunc begin() { os.Exit(3) }")
	r.says(ctx, "(exit status 3); the previous version goes on serving")
	if err := syscall.Kill(pids(rec, "edge")[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.says(ctx, "died after ")
	r.record(ctx, func(now devrecord.Record) bool {
		return len(pids(now, "edge")) == 1 && pids(now, "edge")[0] != pids(rec, "edge")[0]
	})
	if text, err := get(ctx, addr, "/"); err != nil || text != "one" {
		t.Errorf("edge says %q %v", text, err)
	}
}

// openWriter opens a pipe that somebody reads, or is about to.
func openWriter(t *testing.T, name string) *os.File {
	t.Helper()
	var f *os.File
	eventually(within(t, 20*time.Second), t, name+" is being read", func() bool {
		var err error
		f, err = os.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err == nil
	})
	t.Cleanup(func() { _ = f.Close() })
	return f
}
