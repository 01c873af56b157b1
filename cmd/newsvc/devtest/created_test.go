//go:build unix

package devtest_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// created is a project as newsvc create makes it, with newsvc dev running in the directory above.
func created(ctx context.Context, t *testing.T) *running {
	t.Helper()
	if os.Getenv("NEWSVC_TEST_CLI") != "1" {
		t.Skip("links whole services; NEWSVC_TEST_CLI=1 runs it, as make test-cli does")
	}
	p := newUser(t).place()
	p.newsvc(ctx, "create", "blogger-user")
	r := p.dev(nil, "--etcd", "embedded")
	r.complete(ctx)
	return r
}

// ping calls the service by its name.
func (r *running) ping(ctx context.Context) string {
	r.t.Helper()
	return r.newsvc(ctx, "call", "blogger-user", "Ping", "-d", `{"message":"hi"}`)
}

// same sees that the process is still the one that it was.
func (r *running) same(ctx context.Context, before devrecord.Record) {
	r.t.Helper()
	if now := r.complete(ctx); !slices.Equal(pids(now, "blogger-user"), pids(before, "blogger-user")) {
		r.t.Errorf("the process was %v and is %v", pids(before, "blogger-user"), pids(now, "blogger-user"))
	}
	if answer := r.ping(ctx); !strings.Contains(answer, "hi") {
		r.t.Errorf("the answer is %s", answer)
	}
}

func TestASavedProtoIsGeneratedFromAndABrokenOneChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := within(t, 8*time.Minute)
	r := created(ctx, t)
	const proto, ping = "blogger-user/proto/blogger_user/v1/service.proto", "blogger-user/internal/bloggeruser/ping.go"
	const response = "message PingResponse {\n  string message = 1;\n}"
	before := r.complete(ctx)

	r.change(proto, response, "message PingResponse {\n  string message == 1;\n}")
	r.says(ctx, "> generate: ")
	r.says(ctx, ">   "+proto+":22:19: ")
	r.same(ctx, before)

	// Code that is ahead of the proto does not build; the proto brings it along.
	r.change(ping, "PingResponse{Message:", "PingResponse{Version: \"two\", Message:")
	r.says(ctx, ping+":11:")
	r.same(ctx, before)
	from := len(r.out.String())
	r.change(proto, "  string message == 1;", "  string message = 1;\n  string version = 2;")
	r.saysSince(ctx, from, "> generate: updated ")
	r.saysSince(ctx, from, "the previous version is gone")
	if answer := r.ping(ctx); !strings.Contains(answer, `"version":"two"`) {
		t.Errorf("the answer has no field of the new proto: %s", answer)
	}
	if now := r.complete(ctx); slices.Equal(pids(now, "blogger-user"), pids(before, "blogger-user")) {
		t.Errorf("the process is still %v", pids(now, "blogger-user"))
	}

	r.change(proto, "  rpc Ping(", "  rpc Extra(PingRequest) returns (PingResponse);\n  rpc Ping(")
	r.says(ctx, "> note: Server has no method Extra, so calls of it end with UNIMPLEMENTED (")
	r.says(ctx, "a stub: newsvc add rpc Extra\n")
}

func TestASavedConfigurationIsTakenOverOrRestartsTheProcess(t *testing.T) {
	t.Parallel()
	ctx := within(t, 8*time.Minute)
	r := created(ctx, t)
	const file = "blogger-user/config.yaml"
	before := r.complete(ctx)

	// A key that the process takes over by itself.
	r.write(file, "log:\n  level: debug\n")
	r.says(ctx, `log.level: \"info\" -> \"debug\" (config.yaml:2)`)
	r.same(ctx, before)

	r.write(file, "log:\n  level: debug\nblogger_user:\n  reply_prefx: \"> \"\n")
	r.says(ctx, "> "+file+" can't be used; the processes keep the settings that they have")
	r.says(ctx, ">   "+file+":4:3: unknown key \"blogger_user.reply_prefx\"; did you mean \"blogger_user.reply_prefix\"?")
	r.same(ctx, before)

	// One that takes a restart, which needs no compiler.
	r.write(file, "log:\n  level: debug\nblogger_user:\n  reply_prefix: \"> \"\n")
	r.says(ctx, "> reload: "+file+" (keys that take a restart): reloaded in ")
	r.says(ctx, "the previous version is gone")
	if answer := r.ping(ctx); !strings.Contains(answer, "> hi") {
		t.Errorf("the answer is not made with the new setting: %s", answer)
	}
	after := r.complete(ctx)
	if slices.Equal(pids(after, "blogger-user"), pids(before, "blogger-user")) {
		t.Errorf("the process is still %v", pids(after, "blogger-user"))
	}
	if n := strings.Count(r.out.String(), "built in"); n != 1 {
		t.Errorf("%d builds, want that of the start alone", n)
	}

	// A program that is saved while the configuration is broken exits at its start, and the old one goes on.
	r.write(file, "log:\n  level: loud\n")
	r.says(ctx, ">   "+file+":2:10: ")
	r.change("blogger-user/internal/bloggeruser/ping.go", "Message: s.config", "Message: \"new \" + s.config")
	r.says(ctx, "; the previous version goes on serving")
	r.same(ctx, after)
	r.write(file, "log:\n  level: info\n")
	r.says(ctx, "configuration can be used again")
}
