package archtest

import (
	"fmt"
	"strings"
	"testing"
)

// example is a small repository and what a rule has to say about it.
type example struct {
	rule  string
	name  string
	files map[string]string
	want  []string // the beginnings of the findings, "path:line:"; none: the rule is content
}

const doc = "// Package x is an example.\n"

func examples() []example {
	one := func(rule, name, path, text string, want ...string) example {
		return example{rule, name, map[string]string{path: text}, want}
	}
	return []example{
		one("framework packages import only what the table allows", "an edge that is not in the table",
			"framework/readiness/a.go", "package readiness\n\nimport _ \""+module+"/framework/server\"\n", "framework/readiness/a.go:3:"),
		one("framework packages import only what the table allows", "a package without a row",
			"framework/novelty/a.go", "package novelty\n", "framework/novelty/a.go:1:"),
		one("framework packages import only what the table allows", "a foundation on a room",
			"framework/internal/loop/a.go", "package loop\n\nimport _ \""+module+"/framework/discovery\"\n", "framework/internal/loop/a.go:3:"),
		one("framework packages import only what the table allows", "a room on something outside the framework",
			"framework/logging/a.go", "package logging\n\nimport _ \""+module+"/examples/x\"\n", "framework/logging/a.go:3:"),
		one("framework packages import only what the table allows", "the internals of another room",
			"framework/server/a.go", "package server\n\nimport _ \""+module+"/framework/client/internal/balancer\"\n", "framework/server/a.go:3:"),
		{"framework packages import only what the table allows", "allowed edges", map[string]string{
			"framework/server/a.go":                   "package server\n\nimport _ \"" + module + "/framework/readiness\"\n",
			"framework/client/a.go":                   "package client\n\nimport _ \"" + module + "/framework/client/internal/balancer\"\n",
			"framework/client/internal/balancer/a.go": "package balancer\n\nimport _ \"" + module + "/framework/grpcresolver\"\n",
			"framework/discovery/a.go":                "package discovery\n\nimport _ \"" + module + "/framework/internal/loop\"\n",
			"framework/discovery/a_test.go":           "package discovery_test\n\nimport _ \"" + module + "/framework/devetcd\"\n",
			"framework/stack/a.go":                    "package stack\n\nimport _ \"" + module + "/framework/discovery/etcd\"\n",
		}, nil},
		one("Fx stays at the edge", "a room that takes Fx",
			"framework/server/a.go", "package server\n\nimport \"go.uber.org/fx\"\n\nvar M = fx.Options()\n", "framework/server/a.go:3:"),
		one("Fx stays at the edge", "a test of a room that takes Fx",
			"framework/server/a_test.go", "package server_test\n\nimport _ \"go.uber.org/fx/fxtest\"\n", "framework/server/a_test.go:3:"),
		one("Fx stays at the edge", "the command line tool", "cmd/newsvc/main.go", "package main\n\nimport _ \"go.uber.org/dig\"\n", "cmd/newsvc/main.go:3:"),
		one("Fx stays at the edge", "the edge itself", "framework/app/a.go", "package app\n\nimport _ \"go.uber.org/fx\"\n"),
		one("Fx stays at the edge", "the main of an example", "examples/user-service/main.go", "package main\n\nimport _ \"go.uber.org/fx\"\n"),
		one("domain code knows neither framework nor Fx", "the framework",
			"examples/user-service/internal/user/a.go", "package user\n\nimport _ \""+module+"/framework/config\"\n", "examples/user-service/internal/user/a.go:3:"),
		one("domain code knows neither framework nor Fx", "Fx in a test",
			"examples/user-service/internal/user/a_test.go", "package user_test\n\nimport _ \"go.uber.org/fx\"\n", "examples/user-service/internal/user/a_test.go:3:"),
		one("domain code knows neither framework nor Fx", "its own protocol",
			"examples/user-service/internal/user/a.go", "package user\n\nimport _ \""+module+"/proto/user/v1\"\n"),
		one("no package is named after nothing", "util", "framework/util/a.go", "package util\n", "framework/util/a.go:1:"),
		one("no init functions", "an init", "framework/server/a.go", "package server\n\nfunc init() {}\n", "framework/server/a.go:3:"),
		one("no init functions", "an init in an example", "examples/x/main.go", "package main\n\nfunc init() {}\n", "examples/x/main.go:3:"),
		one("no init functions", "a method of that name", "framework/server/a.go", "package server\n\ntype a int\n\nfunc (a) init() {}\n"),
		one("no init functions", "the balancer, which gRPC knows by name only", "framework/client/internal/balancer/a.go", "package balancer\n\nfunc init() {}\n"),
		one("no naked sleeps", "Sleep in a test", "framework/server/a_test.go", "package server_test\n\nimport \"time\"\n\nfunc f() { time.Sleep(1) }\n", "framework/server/a_test.go:5:"),
		one("no naked sleeps", "After under another name", "cmd/newsvc/a.go", "package main\n\nimport t \"time\"\n\nvar c = t.After(1)\n", "cmd/newsvc/a.go:5:"),
		one("no naked sleeps", "a template", "templates/service/a.go.tmpl", "package x\nfunc f() { time."+"Sleep(1) }\n", "templates/service/a.go.tmpl:2:"),
		one("no naked sleeps", "a timer", "framework/server/a.go", "package server\n\nimport \"time\"\n\nvar c = time.AfterFunc\n"),
		one("goroutines are owned", "a go statement", "framework/server/a.go", "package server\n\nfunc f() {\n\tgo f()\n}\n", "framework/server/a.go:4:"),
		one("goroutines are owned", "the home of goroutines", "framework/internal/loop/a.go", "package loop\n\nfunc f() { go f() }\n"),
		one("goroutines are owned", "a test", "framework/server/a_test.go", "package server_test\n\nfunc f() { go f() }\n"),
		one("only mains exit", "os.Exit in a room", "framework/server/a.go", "package server\n\nimport \"os\"\n\nfunc f() { os.Exit(1) }\n", "framework/server/a.go:5:"),
		one("only mains exit", "log.Fatal in a room", "framework/server/a.go", "package server\n\nimport \"log\"\n\nfunc f() { log.Fatalf(\"\") }\n", "framework/server/a.go:5:"),
		one("only mains exit", "app.Run", "framework/app/a.go", "package app\n\nimport \"os\"\n\nfunc f() { os.Exit(1) }\n"),
		one("every package says what it is", "no comment", "framework/server/a.go", "package server\n", "framework/server/a.go:1:"),
		one("every package says what it is", "a comment", "framework/server/a.go", doc+"package server\n"),
		one("every package says what it is", "generated code only", "proto/x/a.pb.go", "// Code generated by x. DO NOT EDIT.\n\npackage x\n"),
		one("exported names are documented", "function, method, type, constant",
			"framework/server/a.go", doc+"package server\n\nfunc F() {}\n\ntype T int\n\nfunc (*T) M() {}\n\nconst C = 1\n",
			"framework/server/a.go:4:", "framework/server/a.go:6:", "framework/server/a.go:8:", "framework/server/a.go:10:"),
		one("exported names are documented", "documented, unexported or written down elsewhere",
			"framework/server/a.go", doc+"package server\n\n// F does.\nfunc F() {}\n\ntype t int\n\nfunc (t) M() {}\n\n// E is.\ntype E int\n\nfunc (E) Error() string { return \"\" }\n\n// Slots.\nconst (\n\tA = 1\n\tB = 2\n)\n"),
		one("settings are documented", "a bare setting", "framework/server/a.go", "package server\n\ntype c struct {\n\tListen string `config:\"listen\"`\n}\n", "framework/server/a.go:4:"),
		one("settings are documented", "a documented setting", "framework/server/a.go", "package server\n\ntype c struct {\n\t// Where.\n\tListen string `config:\"listen\"`\n}\n"),
		one("settings are documented", "one comment for two", "framework/server/a.go", "package server\n\ntype c struct {\n\t// Min and Max bound it.\n\tMin int `config:\"min\"`\n\tMax int `config:\"max\"`\n}\n"),
		one("a README is read to its end", "too long", "README.md", strings.Repeat("x\n", readmeLines+1), fmt.Sprintf("README.md:%d:", readmeLines+1)),
		one("a README is read to its end", "a long template", "templates/service/README.md.tmpl", strings.Repeat("x\n", readmeLines+1), fmt.Sprintf("templates/service/README.md.tmpl:%d:", readmeLines+1)),
		one("a README is read to its end", "long enough", "README.md", strings.Repeat("x\n", readmeLines)),
		one("app is wiring only", "too long", "framework/app/a.go", "package app\n"+strings.Repeat("//\n", appLines), "framework/app/a.go:1:"),
		one("app is wiring only", "long tests", "framework/app/a_test.go", "package app\n"+strings.Repeat("//\n", appLines)),
		one("the main of newsvc is small", "too long", "cmd/newsvc/main.go", "package main\n"+strings.Repeat("//\n", cliMainLines), fmt.Sprintf("cmd/newsvc/main.go:%d:", cliMainLines+1)),
		one("no paths of somebody's machine", "in a document", "docs/a.md", "fine\nsee /wo"+"rk/x\n", "docs/a.md:2:"),
		one("no paths of somebody's machine", "in a script", ".ci/run", "cd /ro"+"ot/go\n", ".ci/run:1:"),
		one("no paths of somebody's machine", "part of a longer path", "docs/a.md", "see net/wo"+"rk/x and .github/workflows/\n"),
		one("no notes to self", "in Go", "framework/server/a.go", "package server\n\n// TO"+"DO: later\n", "framework/server/a.go:3:"),
		one("no notes to self", "in a template", "templates/service/Dockerfile.tmpl", "# FIX"+"ME\n", "templates/service/Dockerfile.tmpl:1:"),
		one("no notes to self", "part of a word", "docs/a.md", "TO"+"DOS is a city in no country\n"),
	}
}

func TestRulesFindWhatTheyForbid(t *testing.T) {
	t.Parallel()
	byName := map[string]rule{}
	for _, r := range rules() {
		byName[r.name] = r
	}
	for _, ex := range examples() {
		t.Run(ex.rule+"/"+ex.name, func(t *testing.T) {
			t.Parallel()
			r, ok := byName[ex.rule]
			if !ok {
				t.Fatalf("no rule is called %q", ex.rule)
			}
			var files []*file
			for path, text := range ex.files {
				files = append(files, newFile(t, path, []byte(text)))
			}
			found := r.check(files)
			if len(found) != len(ex.want) {
				t.Fatalf("got %v, want findings at %q", found, ex.want)
			}
			for i, f := range found {
				if !strings.HasPrefix(f.String(), ex.want[i]) || f.text == "" {
					t.Errorf("got %q, want it to begin with %q and to give a reason", f, ex.want[i])
				}
			}
		})
	}
}

func TestEveryRuleHasBeenSeenToFail(t *testing.T) {
	t.Parallel()
	failed := map[string]bool{}
	for _, ex := range examples() {
		failed[ex.rule] = failed[ex.rule] || len(ex.want) > 0
	}
	for _, r := range rules() {
		if !failed[r.name] {
			t.Errorf("rule %q has no example that breaks it", r.name)
		}
	}
}
