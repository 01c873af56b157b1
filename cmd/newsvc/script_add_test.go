package main_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// kept notes what is in a directory, and fails when there is a note already and something changed since: a file's
// content, its mode, its name, the time it was written.
func kept(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: kept NOTE DIR")
	}
	now, err := listing(ts.MkAbs(args[1]))
	ts.Check(err)
	note := filepath.Join(ts.Getenv("WORK"), ".kept-"+args[0])
	before, err := os.ReadFile(note)
	if os.IsNotExist(err) {
		ts.Check(os.WriteFile(note, []byte(now), 0o644))
		return
	}
	ts.Check(err)
	if now != string(before) {
		ts.Fatalf("%s changed; it was\n%s\nand is\n%s", args[1], before, now)
	}
}

func listing(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if d.IsDir() {
			fmt.Fprintf(&b, "%v %s\n", info.Mode(), rel)
			return nil
		}
		text, err := os.ReadFile(name)
		fmt.Fprintf(&b, "%v %s %x %v\n", info.Mode(), rel, sha256.Sum256(text), info.ModTime())
		return err
	})
	return b.String(), err
}

// edit replaces words in a file that has them.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o644))
}

// policy takes the "# " away from the lines below "# clients:", as somebody would who wants to change them.
func policy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: policy FILE")
	}
	before, block, found := strings.Cut(ts.ReadFile(args[0]), "# clients:\n")
	if !found {
		ts.Fatalf("%s has no policies", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(before+"clients:\n"+strings.ReplaceAll("\n"+block, "\n# ", "\n")[1:]), 0o644))
}

// crlf gives files the line ends of Windows.
func crlf(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := bytes.ReplaceAll([]byte(ts.ReadFile(name)), []byte("\r\n"), []byte("\n"))
		ts.Check(os.WriteFile(ts.MkAbs(name), bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), 0o644))
	}
}

// TestAddRPCWithoutPermission runs the command where it may not write the last of its files: as another user, for root
// may write everywhere. What it wrote before it met that is gone afterwards.
func TestAddRPCWithoutPermission(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user; internal/addrpc has the test for others")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "newsvc-add-") //nolint:usetesting // a directory that another user may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tool := filepath.Join(dir, "newsvc")
	// By a process of its own: what this one has open for writing, others that it starts just then hold open, too, and what is
	// open for writing can't be run.
	if out, err := exec.CommandContext(t.Context(), "cp", filepath.Join(bin, "newsvc"), tool).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	project := filepath.Join(dir, "web")
	create := exec.CommandContext(t.Context(), tool, "create", "web", "--no-verify")
	create.Dir, create.Env = dir, append(os.Environ(), "GOPROXY=off")
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(name, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, closed := range []string{"internal/web", "proto/web/v1"} {
		before := readOnly(t, filepath.Join(project, closed), project)
		cmd := exec.CommandContext(t.Context(), tool, "add", "rpc", "Get")
		cmd.Dir = project
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(string(out), "newsvc: nothing is written: open "+filepath.Join(project, closed)) {
			t.Errorf("with a closed %s, add rpc ended with %v and said\n%s", closed, err, out)
		}
		if after, err := listing(project); err != nil || after != before {
			t.Errorf("with a closed %s, the tree changed: %v\n%s\n%s", closed, err, before, after)
		}
		if err := os.Chmod(filepath.Join(project, closed), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// readOnly closes a directory, opens the way to it, and returns the listing of the project.
func readOnly(t *testing.T, dir, project string) string {
	t.Helper()
	for _, open := range []string{filepath.Dir(project), project} {
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	list, err := listing(project)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
