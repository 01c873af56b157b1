//go:build unix

package devtest_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// calling is the main of a service that says whom it calls, and that is ready when its file go is there.
func calling(callees ...string) string {
	var names []string
	for _, c := range callees {
		names = append(names, fmt.Sprintf(`{"name":%q}`, c))
	}
	main := strings.Replace(plain, "func main() {\n", fmt.Sprintf(`func main() {
	switch os.Getenv("NEWSVC_INTROSPECT") {
	case "callees":
		fmt.Print(%q)
		return
	case "config":
		fmt.Print("{}")
		return
	}
	fmt.Println("begins")
	for {
		if _, err := os.Stat("go"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
`, `{"callees":[`+strings.Join(names, ",")+`]}`), 1)
	return strings.Replace(main, "	\"syscall\"\n", "	\"syscall\"\n	\"time\"\n\n	_ \"github.com/newsvc/newsvc/framework/stack\"\n", 1)
}

// calling adds such a service, which is ready at once or when its file go is written.
func (p *place) calling(name string, ready bool, callees ...string) {
	p.t.Helper()
	p.service(name, calling(callees...))
	p.onFramework(name)
	if ready {
		p.write(name+"/go", "")
	}
}

// Callers that are started first find nobody and warn of it, each time.
func TestThoseThatAreCalledServeBeforeTheirCallersStart(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	p := newUser(t).place()
	p.calling("a-edge", true, "posts", "elsewhere")
	p.calling("posts", true, "users")
	p.calling("users", false, "a-edge") // a circle has to be begun somewhere
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "users    | begins")
	r.says(ctx, "posts    > waiting for users to serve, 10s at the most")
	r.says(ctx, "a-edge   > waiting for posts to serve, 10s at the most")
	p.write("users/go", "")
	r.complete(ctx)
	out, last := r.out.String(), 0
	for _, text := range []string{"users    | version one", "posts    | begins", "posts    | version one", "a-edge   | begins"} {
		at := strings.Index(out, text)
		if at < last {
			t.Errorf("%q is missing or came too early", text)
		}
		last = at
	}
	r.signal(syscall.SIGINT)
	if status := r.wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

// A save, even one from before the start that was noticed after it, is no reason to start before those that are called.
func TestASaveWhileItWaitsDoesNotStartACaller(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	p := newUser(t).place()
	p.calling("edge", true, "users")
	p.calling("users", false)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(p.path("fake/framework/stack/stack.go"), later, later); err != nil {
		t.Fatal(err)
	}
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "edge    > reload: fake/framework/stack/stack.go: built in ")
	r.says(ctx, "users   > reload: fake/framework/stack/stack.go: built in ")
	r.says(ctx, "edge    > waiting for users to serve")
	p.change("edge/main.go", `"one"`, `"two"`)
	r.says(ctx, "started as soon as those that it calls serve")
	p.write("users/go", "")
	r.says(ctx, "edge    | version two")
	r.complete(ctx)
	out := r.out.String()
	if n := strings.Count(out, "the program is the same as before"); n != 2 {
		t.Errorf("%d programs were found to be the same, want 2", n)
	}
	for text, want := range map[string]int{"edge    | begins": 1, "users   | begins": 1, "edge    | version one": 0} {
		if n := strings.Count(out, text); n != want {
			t.Errorf("%q %d times, want %d", text, n, want)
		}
	}
	if strings.Index(out, "edge    | begins") < strings.Index(out, "users   | version one") {
		t.Error("the caller began before the callee served")
	}
}

// What does not come to serve is not waited for: callers say then what they lack.
func TestCallersStartWithoutThoseThatFail(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	p := newUser(t).place()
	p.calling("edge", true, "dying", "broken", "stuck")
	p.calling("stuck", false)
	p.service("dying", "package main\n\nimport \"os\"\n\nfunc main() { os.Exit(7) }\n")
	p.service("broken", wrong)
	r := p.dev(nil, "--etcd", "127.0.0.1:1")
	r.says(ctx, "waiting for stuck to serve, 10s at the most") // and for none of the others
	r.says(ctx, "edge     | begins")
	p.write("stuck/go", "")
	r.says(ctx, "everything but broken, dying serves")
}
