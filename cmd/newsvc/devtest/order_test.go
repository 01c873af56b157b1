//go:build unix

package devtest_test

import (
	"fmt"
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
