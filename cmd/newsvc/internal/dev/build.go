package dev

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

const (
	askTimeout = 10 * time.Second
	stackPath  = "github.com/newsvc/newsvc/framework/stack"
)

// build compiles a service into a file of its own, so that what runs is never written over.
func (u *unit) build(ctx context.Context) (binary string, err error) {
	u.builds++
	binary = filepath.Join(u.root, stateDir, "bin", fmt.Sprintf("%s-%d%s", u.name, u.builds, exe))
	text, err := goCommand(ctx, u.dir, "build", "-o", binary, ".")
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return "", &problem.Error{Exit: problem.Environment, What: "the go command is not in PATH", Fix: "install Go from https://go.dev/dl/", Err: err}
	case err == nil:
		return binary, nil
	}
	if _, ran := errors.AsType[*exec.ExitError](err); !ran {
		return "", &problem.Error{Exit: problem.Environment, What: u.name + " can't be built", At: err.Error(), Err: err}
	}
	return "", &problem.Error{Exit: problem.Failed, What: u.name + " does not build", At: u.located(string(text)), Err: err}
}

// located is what the compiler printed, with names of files that can be opened from where newsvc dev runs.
func (u *unit) located(text string) string {
	rel, err := filepath.Rel(u.root, u.dir)
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimRight(line, "\r\n")
		text := strings.TrimLeft(line, "\t") // of a line that goes with the one before
		if file, rest, ok := strings.Cut(text, ":"); ok && err == nil && strings.HasSuffix(file, ".go") && !filepath.IsAbs(file) {
			line = line[:len(line)-len(text)] + filepath.Join(rel, file) + ":" + rest
		}
		if !strings.HasPrefix(line, "# ") { // the import path, which the file names better
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n       ")
}

// goCommand runs the go command in a process group of its own, and ends all of it with ctx.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	var text bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = dir, &text, &text, ownGroup()
	cmd.Cancel = func() error { killGroup(cmd.Process.Pid); return nil }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	return text.Bytes(), err
}

// pkg is what the go command says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	Module     *struct {
		Path    string
		Main    bool
		Dir     string
		GoMod   string
		Replace *struct{ Version string }
	}
	EmbedFiles, EmbedPatterns, CgoFiles, CFiles, CXXFiles, HFiles, SFiles []string
}

// sources are the files that a service is made of, as far as they are written here and not downloaded.
type sources struct {
	dirs   map[string]bool // whose Go files belong to it
	files  map[string]bool // others
	embeds []embed
	stack  bool      // it is built on the framework
	since  time.Time // from which on saves may be missing from what was listed and built
}

// list asks the go command what a service is made of. It does so for one that does not compile, too.
func (u *unit) list(ctx context.Context) (sources, error) {
	s := sources{dirs: map[string]bool{}, files: map[string]bool{}}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-deps",
		"-json=ImportPath,Dir,Standard,Imports,Module,EmbedFiles,EmbedPatterns,CgoFiles,CFiles,CXXFiles,HFiles,SFiles", ".")
	cmd.Dir, cmd.Stdout, cmd.SysProcAttr, cmd.WaitDelay = u.dir, &out, ownGroup(), 2*time.Second
	if err := cmd.Run(); err != nil {
		return s, fmt.Errorf("go list in %s: %w", u.dir, err)
	}
	modules, imports, seen := map[string]string{}, map[string]bool{}, map[string]bool{}
	for dec := json.NewDecoder(&out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			maps.DeleteFunc(imports, func(path string, _ bool) bool { return seen[path] })
			s.missing(modules, imports)
			s.workspace(u.dir, u.root)
			return s, nil
		} else if err != nil {
			return s, err
		}
		seen[p.ImportPath] = p.Dir != "" // one that is missing has none
		s.stack = s.stack || p.ImportPath == stackPath
		local := p.Module != nil && (p.Module.Main || p.Module.Replace != nil && p.Module.Replace.Version == "")
		if p.Standard || !local || p.Dir == "" {
			continue
		}
		s.add(p)
		modules[p.Module.Path] = p.Module.Dir
		for _, path := range p.Imports {
			imports[path] = true
		}
	}
}

// add takes in a package that is written here.
func (s *sources) add(p pkg) {
	s.dirs[p.Dir] = true
	for _, name := range slices.Concat(p.EmbedFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.HFiles, p.SFiles) {
		s.files[filepath.Join(p.Dir, name)] = true
	}
	for _, pattern := range p.EmbedPatterns {
		s.embeds = append(s.embeds, newEmbed(p.Dir, pattern))
	}
	if p.Module.Main {
		for _, name := range moduleFiles() {
			s.files[filepath.Join(p.Module.Dir, name)] = true
		}
	}
}

// missing takes in packages that are imported and not written yet, whose files are to be noticed when they come.
func (s *sources) missing(modules map[string]string, imports map[string]bool) {
	for path := range imports {
		for module, dir := range modules {
			if rest, ok := strings.CutPrefix(path, module+"/"); ok {
				s.dirs[filepath.Join(dir, filepath.FromSlash(rest))] = true
			}
		}
	}
}

// workspace takes in the go.work that may be above a module, which need not exist yet below root.
func (s *sources) workspace(dir, root string) {
	if path := os.Getenv("GOWORK"); filepath.IsAbs(path) {
		s.files[path] = true
	} else if path != "" {
		return // off
	}
	for inside := true; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "go.work")
		if _, err := os.Stat(path); err == nil || inside {
			s.files[path] = true
		}
		if inside = inside && dir != root; dir == filepath.Dir(dir) {
			return
		}
	}
}

// guess is what a service is made of as far as that can be told without the go command: one that can't read go.mod, for
// example.
func (u *unit) guess() sources {
	s := sources{dirs: map[string]bool{}, files: map[string]bool{}}
	_ = filepath.WalkDir(u.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
		case path != u.dir && skipped(d.Name()):
			return fs.SkipDir
		default:
			s.dirs[path] = true
		}
		return nil //nolint:nilerr // what can't be read is nothing to watch
	})
	for dir := u.dir; ; dir = filepath.Dir(dir) {
		for _, name := range moduleFiles() {
			s.files[filepath.Join(dir, name)] = true
		}
		if dir == u.root || dir == filepath.Dir(dir) {
			return s
		}
	}
}

func moduleFiles() []string { return []string{"go.mod", "go.sum", "go.work"} }

// settings are what a service says of its own configuration.
type settings struct {
	http string // where it listens for HTTP, if it does
	tls  bool   // gRPC is not in plaintext
}

// ask has a new binary say what newsvc dev has to know before it starts; false when it does not know the question or can't
// answer, which its start will tell better.
func (u *unit) ask(ctx context.Context, binary string) (settings, bool) {
	raw, err := u.introspect(ctx, binary, "config")
	var answer struct {
		HTTP   bool `json:"http"`
		Values []struct {
			Key   string `json:"key"`
			Value any    `json:"value"`
		} `json:"values"`
	}
	if err != nil || json.Unmarshal(raw, &answer) != nil {
		return settings{}, false
	}
	var s settings
	for _, v := range answer.Values {
		text, _ := v.Value.(string)
		switch {
		case v.Key == "http.listen" && answer.HTTP:
			s.http = text
		case v.Key == "server.tls.cert":
			s.tls = text != ""
		}
	}
	return s, true
}

// introspect has a binary print its configuration, or something else about itself, without starting anything. What is wrong
// with that is in an [*exec.ExitError].
func (u *unit) introspect(ctx context.Context, binary, question string) ([]byte, error) {
	if !u.made().stack {
		return nil, errors.ErrUnsupported
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary)
	cmd.Dir, cmd.Env, cmd.SysProcAttr, cmd.WaitDelay = u.dir, append(slices.Clone(u.env), "NEWSVC_INTROSPECT="+question), ownGroup(), 2*time.Second
	cmd.Cancel = func() error { killGroup(cmd.Process.Pid); return nil }
	return cmd.Output()
}

// sum is what tells one build from another.
func sum(path string) ([sha256.Size]byte, error) {
	h := sha256.New()
	f, err := os.Open(path)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}
