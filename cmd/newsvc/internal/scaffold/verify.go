package scaffold

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func findGo() error {
	if _, err := exec.LookPath("go"); err != nil {
		return &problem.Error{
			Exit: problem.Environment,
			What: "the go command is not on PATH, so the new project cannot be built",
			Fix:  "install Go (https://go.dev/dl), or write the project unbuilt: --no-verify",
			Err:  err,
		}
	}
	return nil
}

// verify builds the project: what a person would do first should not be what tells them that it does not work.
func (o Options) verify(ctx context.Context, p place, ownModule bool) error {
	started := time.Now()
	cmd := exec.CommandContext(ctx, "go", "build", "./...")
	cmd.Dir = p.To
	cmd.Env = append(os.Environ(), "PWD="+p.To)
	if ownModule { // a go.work above knows nothing of the new module
		cmd.Env = append(cmd.Env, "GOWORK=off")
	}
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err := o.patiently(cmd, "go build ./... is at work; the first build on a machine takes minutes, later ones seconds")
	out := both.Bytes()
	if err == nil {
		o.say("verify", "go build ./...: ok, %.1f s", time.Since(started).Seconds())
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	line := firstError(out, err)
	for _, sign := range []string{"dial tcp", "module lookup disabled by GOPROXY", "missing go.sum entry", "no such host", "i/o timeout"} {
		if bytes.Contains(out, []byte(sign)) {
			return &problem.Error{
				Exit: problem.Environment,
				What: "the project is written, but its dependencies could not be downloaded",
				At:   "go build ./...: " + line,
				Fix:  "cd " + p.Shown + " && go mod download && go build ./...      (set GOPROXY if your network needs a mirror)",
				Err:  err,
			}
		}
	}
	if strings.Contains(line, "requires go >= ") {
		return &problem.Error{
			Exit: problem.Environment, What: "the project is written, but this Go is too old for it",
			At: "go build ./...: " + line, Fix: "install that Go, or let the go command fetch it: cd " + p.Shown + " && GOTOOLCHAIN=auto go build ./...", Err: err,
		}
	}
	return &problem.Error{
		What: "the project is written, but it does not build",
		At:   "go build ./...: " + line,
		Fix:  "cd " + p.Shown + " && go build ./...      (shows all errors)",
		Err:  err,
	}
}

// patiently runs cmd, and says what is going on when that takes a while.
func (o Options) patiently(cmd *exec.Cmd, what string) error {
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	soon := time.NewTimer(2 * time.Second)
	defer soon.Stop()
	select {
	case err := <-done:
		return err
	case <-soon.C:
		o.say("wait", "%s", what)
		return <-done
	}
}

// firstError is the first line of the go command that says something: not the package headings.
func firstError(out []byte, err error) string {
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "go: downloading ") {
			return line
		}
	}
	return err.Error()
}

// downloadSums asks the go command for the checksums of a released framework, which go.sum needs. An installed newsvc
// has its own release in the module cache, so this works without a network.
func (o Options) downloadSums(ctx context.Context, version string) ([]string, error) {
	if err := findGo(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", buildinfo.Module+"@"+version)
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOWORK=off", "GO111MODULE=on", "PWD="+filepath.Clean(cmd.Dir))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := o.patiently(cmd, "go mod download "+buildinfo.Module+"@"+version+" is at work")
	out := stdout.Bytes()
	var got struct{ Sum, GoModSum, Error string }
	if parseErr := json.Unmarshal(out, &got); err == nil {
		err = parseErr
	}
	if got.Error != "" {
		err = errors.New(got.Error)
	}
	if err != nil || got.Sum == "" || got.GoModSum == "" {
		if err == nil {
			err = errors.New("no checksums in the answer")
		}
		if got.Error == "" && stderr.Len() > 0 {
			err = errors.New(firstError(stderr.Bytes(), err))
		}
		return nil, &problem.Error{
			Exit: problem.Environment,
			What: fmt.Sprintf("cannot download %s %s", buildinfo.Module, version),
			At:   fmt.Sprintf("go mod download %s@%s: %v", buildinfo.Module, version, err),
			Fix:  "choose a published version with --framework, set GOPROXY to a mirror you reach, or use a checkout: --framework DIR",
			Err:  err,
		}
	}
	line := buildinfo.Module + " " + version
	return []string{line + " " + got.Sum, line + "/go.mod " + got.GoModSum}, nil
}
