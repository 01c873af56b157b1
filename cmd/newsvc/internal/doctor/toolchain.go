package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/build"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/templates"
)

// goEnv asks the go command for its settings, as they are outside of all modules and without a download of another
// toolchain.
func goEnv(ctx context.Context, environ []string, keys ...string) (map[string]string, error) {
	path, err := lookPath("go", environ)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"env", "-json"}, keys...)...)
	cmd.Dir = os.TempDir()
	cmd.Env = append(slices.Clone(environ), "GOTOOLCHAIN=local", "GOWORK=off", "PWD="+cmd.Dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	values := map[string]string{}
	return values, json.Unmarshal(out, &values)
}

// lookPath finds a command in the PATH of an environment.
func lookPath(name string, environ []string) (string, error) {
	x := examination{Options: Options{Environ: environ}}
	for _, dir := range filepath.SplitList(x.getenv("PATH")) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// toolchain compares the go command with what the module around needs, and without a module with what newsvc needs.
func (x *examination) toolchain(ctx context.Context) []Finding {
	env, err := goEnv(ctx, x.Environ, "GOVERSION", "GOENV", "GOROOT")
	if errors.Is(err, exec.ErrNotFound) {
		return []Finding{{Level: Fail, What: "the go command is not in PATH; needed is Go " + requiredGo() + " or later", Fix: x.getGo(requiredGo())}}
	}
	if err != nil {
		return one(Skip, "%v", err)
	}
	need, by := requiredGo(), "newsvc"
	if x.gomod != nil && x.gomod.Go != nil {
		need, by = x.gomod.Go.Version, "go.mod"
	}
	have := strings.Fields(env["GOVERSION"])[0]
	if version.Compare(have, "go"+need) >= 0 {
		return one(OK, "%s (%s needs %s)", have, by, need)
	}
	if version.Compare(have, "go1.21") < 0 {
		return []Finding{{Level: Fail, What: fmt.Sprintf("%s needs Go %s, this is %s, which cannot fetch another", by, need, have), Fix: x.getGo(need)}}
	}
	setting, source := x.goToolchain(env)
	if fetches(setting) {
		return one(OK, "%s; the go command fetches go%s, which %s needs", have, need, by)
	}
	f := Finding{Level: Fail, What: fmt.Sprintf("%s needs Go %s, this is %s, and GOTOOLCHAIN=%s keeps the go command from fetching it", by, need, have, setting), At: source}
	f.Fix = "go env -w GOTOOLCHAIN=auto"
	if source == "the environment" {
		f.Fix = "export GOTOOLCHAIN=auto"
	}
	return []Finding{f}
}

// getGo is the command that puts a go command of at least this release into PATH: one that is on this machine, or one
// that is downloaded to where nobody needs to be root.
func (x *examination) getGo(need string) string {
	if runtime.GOOS == "windows" {
		return "winget install GoLang.Go"
	}
	if strings.Count(need, ".") == 1 && !strings.ContainsAny(need, "br") { // the first of a release is called 1.26.0
		need += ".0"
	}
	home := x.getenv("HOME")
	for _, dir := range []string{filepath.Join(home, "sdk", "go"), "/usr/local/go", "/usr/lib/go", "/opt/homebrew/opt/go/libexec"} {
		text, err := os.ReadFile(filepath.Join(dir, "VERSION"))
		if have := strings.Fields(string(text) + " -")[0]; err == nil && version.Compare(have, "go"+need) >= 0 {
			return `export PATH="` + filepath.Join(dir, "bin") + `:$PATH"`
		}
	}
	return fmt.Sprintf(`mkdir -p "$HOME/sdk" && curl -fsSL https://go.dev/dl/go%s.%s-%s.tar.gz | tar -xz -C "$HOME/sdk" && export PATH="$HOME/sdk/go/bin:$PATH"`,
		need, runtime.GOOS, runtime.GOARCH)
}

// requiredGo is the release that new projects, and newsvc itself, are written for.
func requiredGo() string {
	text, err := templates.FS.ReadFile("gomod/service.mod")
	if err == nil {
		if f, err := modfile.ParseLax("service.mod", text, nil); err == nil && f.Go != nil {
			return f.Go.Version
		}
	}
	return strings.TrimPrefix(runtime.Version(), "go")
}

// goToolchain is the setting GOTOOLCHAIN and where it comes from: go env itself tells the one of this very call.
func (x *examination) goToolchain(env map[string]string) (setting, source string) {
	if v := x.getenv("GOTOOLCHAIN"); v != "" {
		return v, "the environment"
	}
	for _, file := range []string{env["GOENV"], filepath.Join(env["GOROOT"], "go.env")} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "GOTOOLCHAIN="); ok {
				return v, file
			}
		}
	}
	return "auto", "the default"
}

// fetches reports whether a setting lets the go command download a newer toolchain.
func fetches(setting string) bool { return setting == "auto" || strings.HasSuffix(setting, "+auto") }

// GoBin returns the directory where go install puts commands, and whether it is in PATH.
func GoBin(ctx context.Context, environ []string) (dir string, inPath bool) {
	env, err := goEnv(ctx, environ, "GOBIN", "GOPATH")
	if err != nil {
		env = map[string]string{"GOPATH": build.Default.GOPATH}
	}
	dir = env["GOBIN"]
	if paths := filepath.SplitList(env["GOPATH"]); dir == "" && len(paths) > 0 {
		dir = filepath.Join(paths[0], "bin")
	}
	x := examination{Options: Options{Environ: environ}}
	for _, in := range filepath.SplitList(x.getenv("PATH")) {
		if sameDir(in, dir) {
			return dir, true
		}
	}
	return dir, dir == ""
}

// AddToPath is the command that puts a directory into PATH, for the shell it will be pasted into.
func AddToPath(dir string) string {
	if runtime.GOOS == "windows" {
		return `set PATH=%PATH%;` + dir
	}
	return `export PATH="$PATH:` + dir + `"`
}

func sameDir(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	ia, err := os.Stat(a)
	if err != nil {
		return false
	}
	ib, err := os.Stat(b)
	return err == nil && os.SameFile(ia, ib)
}

func (x *examination) goBin(ctx context.Context) []Finding {
	dir, ok := GoBin(ctx, x.Environ)
	if dir == "" { // the go command finds no place for its cache either
		return []Finding{{Level: Fail, What: "neither HOME nor GOPATH is set, so the go command cannot build or install anything", Fix: `export HOME="$(eval echo ~$(id -un))"`}}
	}
	if ok {
		return one(OK, "%s, where go install puts commands, is in PATH", dir)
	}
	return []Finding{{Level: Warn, What: fmt.Sprintf("%s, where go install puts commands, is not in PATH", dir), Fix: AddToPath(dir)}}
}
