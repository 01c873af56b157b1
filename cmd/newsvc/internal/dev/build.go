package dev

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	case err != nil:
		return "", &problem.Error{Exit: problem.Failed, What: u.name + " does not build", At: u.located(string(text)), Err: err}
	}
	return binary, nil
}

// located is what the compiler printed, with names of files that can be opened from where newsvc dev runs.
func (u *unit) located(text string) string {
	rel, err := filepath.Rel(u.root, u.dir)
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimRight(line, "\r\n")
		if file, rest, ok := strings.Cut(line, ":"); ok && err == nil && strings.HasSuffix(file, ".go") && !filepath.IsAbs(file) {
			line = filepath.Join(rel, file) + ":" + rest
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
	Module     *struct {
		Main    bool
		Dir     string
		GoMod   string
		Replace *struct{ Version string }
	}
	EmbedFiles, CgoFiles, CFiles, CXXFiles, HFiles, SFiles []string
}

// sources are the files that a service is made of, as far as they are written here and not downloaded.
type sources struct {
	dirs  map[string]bool // whose Go files belong to it
	files map[string]bool // others
	stack bool            // it is built on the framework
}

// list asks the go command what a service is made of. It does so for one that does not compile, too.
func (u *unit) list(ctx context.Context) (sources, error) {
	s := sources{dirs: map[string]bool{}, files: map[string]bool{}}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-deps",
		"-json=ImportPath,Dir,Standard,Module,EmbedFiles,CgoFiles,CFiles,CXXFiles,HFiles,SFiles", ".")
	cmd.Dir, cmd.Stdout, cmd.SysProcAttr, cmd.WaitDelay = u.dir, &out, ownGroup(), 2*time.Second
	if err := cmd.Run(); err != nil {
		return s, fmt.Errorf("go list in %s: %w", u.dir, err)
	}
	for dec := json.NewDecoder(&out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return s, err
		}
		s.stack = s.stack || p.ImportPath == stackPath
		local := p.Module != nil && (p.Module.Main || p.Module.Replace != nil && p.Module.Replace.Version == "")
		if p.Standard || !local || p.Dir == "" {
			continue
		}
		s.dirs[p.Dir] = true
		for _, name := range slices.Concat(p.EmbedFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.HFiles, p.SFiles) {
			s.files[filepath.Join(p.Dir, name)] = true
		}
		if p.Module.Main {
			for _, name := range []string{"go.mod", "go.sum", "go.work"} {
				s.files[filepath.Join(p.Module.Dir, name)] = true
			}
		}
	}
}

// settings are what a service says of its own configuration.
type settings struct {
	http string // where it listens for HTTP, if it does
	tls  bool   // gRPC is not in plaintext
}

// ask has a new binary say what newsvc dev has to know before it starts; false when it does not know the question or can't
// answer, which its start will tell better.
func (u *unit) ask(ctx context.Context, binary string) (settings, bool) {
	if !u.made().stack {
		return settings{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary)
	cmd.Dir, cmd.Env, cmd.SysProcAttr, cmd.WaitDelay = u.dir, append(slices.Clone(u.env), "NEWSVC_INTROSPECT=config"), ownGroup(), 2*time.Second
	cmd.Cancel = func() error { killGroup(cmd.Process.Pid); return nil }
	raw, err := cmd.Output()
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
