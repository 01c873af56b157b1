package clitest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatAddWritesIsLinted adds methods of all kinds and a client whose proto is copied, to a project whose proto has the
// line ends of Windows and whose main.go is not as gofmt leaves it. The project builds, is linted by the config it ships with and
// by buf, and passes its tests; git sees nothing after a second run.
func TestWhatAddWritesIsLinted(t *testing.T) {
	s := newShell(t)
	top := t.TempDir()
	s.run(top, "newsvc", "create", "blogger-user", "--no-verify")
	s.run(top, "newsvc", "create", "blogger-post", "--no-verify")
	dir := filepath.Join(top, "blogger-user")
	proto, main := filepath.Join(dir, "proto/blogger_user/v1/service.proto"), filepath.Join(dir, "main.go")
	write(t, proto, strings.ReplaceAll(contents(t, proto), "\n", "\r\n"))
	odd := strings.Replace(contents(t, main), "func main() {", "//go:generate true\nfunc  main( ) {", 1)
	write(t, main, "//go:build !never\n\n"+odd)
	commands := [][]string{
		{"add", "rpc", "SyncWindows"},
		{"add", "rpc", "CreateTest", "--stream", "server"},
		{"add", "rpc", "Server", "--stream", "client"},
		{"add", "rpc", "Get2FA", "--stream", "bidi"},
		{"add", "client", "blogger-post"},
	}
	for _, args := range commands {
		s.run(dir, "newsvc", args...)
		s.run(dir, "go", "build", "./...")
	}
	if text := contents(t, main); !strings.Contains(text, "func  main( ) {") || !strings.Contains(text, "\tapp.Client(\"blogger-post\", bloggerpostv1.NewBloggerPostServiceClient),\n") {
		t.Errorf("main.go is\n%s", text)
	}
	if text := contents(t, proto); strings.Count(text, "\n") != strings.Count(text, "\r\n") {
		t.Errorf("service.proto has line ends of two kinds:\n%q", text)
	}
	s.run(dir, "gofmt", "-w", "main.go") // by its author, who lints it
	s.run(dir, "go", "vet", "./...")
	s.run(dir, "golangci-lint", "run", "--allow-parallel-runners", "./...")
	s.run(dir, "newsvc", "generate", "--export-deps", "third_party")
	s.run(dir, "buf", "lint")
	s.run(dir, "go", "test", "./...")

	s.run(dir, "git", "init", "-q")
	s.run(dir, "git", "add", "-A")
	s.run(dir, "git", "commit", "-q", "-m", "added")
	for _, args := range commands {
		if out := s.run(dir, "newsvc", args...); out != "unchanged\n" {
			t.Errorf("a second newsvc %s says\n%s", strings.Join(args, " "), out)
		}
	}
	s.run(dir, "buf", "generate")
	s.run(dir, "newsvc", "generate", "--check")
	if changed := s.run(dir, "git", "status", "--porcelain"); changed != "" {
		t.Errorf("a second run changed\n%s", changed)
	}
}

func contents(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
