package main_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
)

var update = flag.Bool("update", false, "write what commands print into the scripts")

// bin holds the newsvc that all scripts run: the plain binary, built once.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(bin)
		os.Exit(code)
	}))
}

func build() (err error) {
	if bin, err = os.MkdirTemp("", "newsvc-bin-"); err != nil {
		return err
	}
	// Without the stamp of a commit, which says another version after each.
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", bin+string(filepath.Separator), ".").CombinedOutput(); err != nil {
		return fmt.Errorf("build newsvc: %w\n%s", err, out)
	}
	return download()
}

// download fetches what the go command asks for in created projects and newsvc itself is not built from: the pinned tools, and
// the go.mod files of all modules that may come to matter. Scripts have no network.
func download() error {
	dir, err := os.MkdirTemp("", "newsvc-download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	project := filepath.Join(dir, "any")
	for _, c := range []*exec.Cmd{
		exec.Command(filepath.Join(bin, "newsvc"), "create", "any", "--no-verify", "-q", "-C", dir),
		exec.Command("go", "list", "-deps", "tool"),
		exec.Command("go", "mod", "graph"),
	} {
		if c.Args[0] == "go" {
			c.Dir, c.Env = project, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		}
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", c, err, out)
		}
	}
	return nil
}

// TestScripts runs testdata/script. Beside testscript's own commands there are:
//
//	fails CODE CMD ARGS...   the command has to end with this exit code
//	uncomment FILE           strips "# " from the lines of a YAML file that hold a setting
//	count N DIR              there are N files in DIR and below
//	checkout DIR             makes DIR look like a checkout of the framework, which can be written to
//	release DIR VERSION      makes DIR a module proxy that has one release of the framework (its go.mod only)
//	registry                 starts an etcd, which listens at $ETCD
//	serve NAME [JSON]        starts a service there, which listens at $ADDR; JSON is a calltest.Service
//	put KEY VALUE, del KEY   writes to that etcd
//	reads CODE CMD ARGS...   the command has to end with this exit code, and leave that etcd as it is
//	leaves NAME FILE         stops a service under the eyes of newsvc ls -w, whose lines go to FILE
//	remedy CHECK [ARGS...]   doctor has a finding of this check; its remedy is pasted into a shell, and ends it
//	listen KEY               something listens on loopback until the script ends; the variable KEY holds its address
func TestScripts(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	inherited := map[string]string{}
	for _, key := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS"} {
		out, err := exec.CommandContext(t.Context(), "go", "env", key).Output()
		if err != nil {
			t.Fatal(err)
		}
		inherited[key] = strings.TrimSpace(string(out))
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			for key, value := range inherited {
				env.Setenv(key, value)
			}
			env.Setenv("GOPROXY", "off") // a new project needs no network
			env.Setenv("GOTOOLCHAIN", "local")
			env.Values[worldKey{}] = &world{}
			env.Setenv("REPO", root)
			env.Setenv("BIN", bin)
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fails":     fails,
			"uncomment": uncomment,
			"count":     count,
			"checkout":  checkout,
			"release":   release,
			"registry":  registry,
			"serve":     serve,
			"foreign":   foreign,
			"put":       put,
			"del":       del,
			"reads":     reads,
			"leaves":    leaves,
			"remedy":    remedy,
			"listen":    listen,
			"kept":      kept,
			"crlf":      crlf,
			"edit":      edit,
			"policy":    policy,
		},
	})
}

func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails CODE CMD ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("%s ended with %v, want exit code %d", strings.Join(args[1:], " "), err, want)
	}
}

func uncomment(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: uncomment FILE")
	}
	setting := regexp.MustCompile(`^# ( *[a-z_]+:)`)
	var out bytes.Buffer
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		out.WriteString(setting.ReplaceAllString(line, "$1"))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out.Bytes(), 0o644))
}

func count(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: count N DIR")
	}
	n := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	}))
	if strconv.Itoa(n) != args[0] {
		ts.Fatalf("%s holds %d files, want %s", args[1], n, args[0])
	}
}

func checkout(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: checkout DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(ts.Getenv("REPO"), name))
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, name), text, 0o644))
	}
	for _, name := range []string{"framework", "proto/newsvc"} { // what services are built from
		link := filepath.Join(dir, name)
		ts.Check(os.MkdirAll(filepath.Dir(link), 0o755))
		ts.Check(os.Symlink(filepath.Join(ts.Getenv("REPO"), name), link))
	}
}

func release(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: release DIR VERSION")
	}
	version := module.Version{Path: buildinfo.Module, Version: args[1]}
	dir := filepath.Join(ts.MkAbs(args[0]), version.Path, "@v")
	ts.Check(os.MkdirAll(dir, 0o755))
	mod, err := os.ReadFile(filepath.Join(ts.Getenv("REPO"), "go.mod"))
	ts.Check(err)
	source := ts.MkAbs("release-" + version.Version)
	ts.Check(os.MkdirAll(source, 0o755))
	ts.Check(os.WriteFile(filepath.Join(source, "go.mod"), mod, 0o644))
	var archive bytes.Buffer
	ts.Check(zip.CreateFromDir(&archive, version, source))
	for ext, content := range map[string][]byte{
		".mod": mod, ".zip": archive.Bytes(), ".info": fmt.Appendf(nil, `{"Version":%q}`, version.Version),
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, version.Version+ext), content, 0o644))
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "list"), []byte(version.Version+"\n"), 0o644))
}
