package scaffold

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// Framework is how a new project refers to the framework: by Version when it can be downloaded, else by the checkout
// in Dir. Exactly one is set.
type Framework struct {
	Version string
	Dir     string // absolute
}

// String is what the progress line of create shows.
func (f Framework) String() string {
	if f.Dir != "" {
		return buildinfo.Module + " => " + f.Dir
	}
	return buildinfo.Module + " " + f.Version
}

// FrameworkQuery is what the decision depends on.
type FrameworkQuery struct {
	Flag  string         // --framework: a version, or the directory of a checkout; empty when not given
	Env   string         // NEWSVC_FRAMEWORK, of the same form
	Build buildinfo.Info // what this binary is
	// Source is the path of a source file of this binary as the compiler recorded it; empty means the real one.
	Source string
	Cwd    string // absolute; Flag and Env are relative to it
}

// FindFramework decides between a version and a checkout. What was asked for comes first; then an installed release
// names itself; then the checkout this binary was built from; then one around the current directory. A checkout's own
// version is never required, even on a tag: nobody knows whether it was pushed.
func FindFramework(q FrameworkQuery) (Framework, error) {
	for _, asked := range []struct{ by, value string }{{"--framework", q.Flag}, {"NEWSVC_FRAMEWORK", q.Env}} {
		if asked.value != "" {
			return askedFor(asked.by, asked.value, q.Cwd)
		}
	}
	if q.Build.Release() {
		return Framework{Version: q.Build.Version}, nil
	}
	source := q.Source
	if source == "" {
		_, source, _, _ = runtime.Caller(0)
	}
	if filepath.IsAbs(source) { // with -trimpath it begins with the module's path
		if dir, ok := checkoutAbove(filepath.Dir(source)); ok {
			return Framework{Dir: dir}, nil
		}
	}
	if dir, ok := checkoutAbove(q.Cwd); ok {
		return Framework{Dir: dir}, nil
	}
	return Framework{}, &problem.Error{
		Exit: problem.Environment,
		What: "this newsvc was built from a checkout that cannot be found any more",
		Fix:  "pass --framework DIR (a checkout of " + buildinfo.Module + ") or --framework v0.4.0 (a release)",
	}
}

func askedFor(by, value, cwd string) (Framework, error) {
	if semver.IsValid(value) && semver.Canonical(value) == value {
		return Framework{Version: value}, nil
	}
	dir := value
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(cwd, dir)
	}
	if moduleOf(dir) == buildinfo.Module {
		return Framework{Dir: filepath.Clean(dir)}, nil
	}
	at := filepath.Join(dir, "go.mod") + " does not exist"
	if m := moduleOf(dir); m != "" {
		at = filepath.Join(dir, "go.mod") + " says module " + m
	}
	return Framework{}, &problem.Error{
		Exit: problem.Usage,
		What: fmt.Sprintf("%s %q is neither a version nor a checkout of %s", by, value, buildinfo.Module),
		At:   at,
		Fix:  "write a version with three numbers, for example v0.4.0, or the directory whose go.mod says module " + buildinfo.Module,
	}
}

func checkoutAbove(dir string) (string, bool) {
	for {
		if m := moduleOf(dir); m == buildinfo.Module {
			return dir, true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", false
		}
		dir = up
	}
}

// moduleOf returns the module that dir is the root of; empty when it is none.
func moduleOf(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return ""
	}
	return modfile.ModulePath(text)
}

// maxUp is how far above the project a checkout may lie to be referred to by a relative path, which survives when
// both are moved together. Farther away the two have little to do with each other.
const maxUp = 3

// replacePath is how a project in dir writes the path of the checkout in its go.mod.
func replacePath(project, checkout string) string {
	if straight, err := filepath.EvalSymlinks(filepath.Dir(project)); err == nil && straight == filepath.Dir(project) {
		// Through a link, "..", as the go command joins it, would lead elsewhere.
		rel, err := filepath.Rel(project, checkout)
		if err == nil && strings.Count(filepath.ToSlash(rel)+"/", "../") <= maxUp {
			rel = filepath.ToSlash(rel)
			if !strings.HasPrefix(rel, "../") && rel != ".." {
				rel = "./" + rel
			}
			return rel
		}
	}
	return filepath.ToSlash(checkout)
}

// ProjectFramework says what the project around dir refers to: "v0.4.0", or the path of a checkout, or empty when dir is
// in no project of ours.
func ProjectFramework(dir string) string {
	for {
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			return requiredBy(text)
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

func requiredBy(gomod []byte) string {
	f, err := modfile.Parse("go.mod", gomod, nil)
	if err != nil {
		return ""
	}
	if f.Module != nil && f.Module.Mod.Path == buildinfo.Module {
		return "the framework's own repository"
	}
	for _, r := range f.Replace {
		if r.Old.Path == buildinfo.Module {
			return buildinfo.Module + " => " + r.New.Path
		}
	}
	for _, r := range f.Require {
		if r.Mod.Path == buildinfo.Module {
			return buildinfo.Module + " " + r.Mod.Version
		}
	}
	return ""
}
