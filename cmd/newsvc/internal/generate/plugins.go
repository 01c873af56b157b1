package generate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// packageOf is where the plugins are that are linked into this binary.
func packageOf(plugin string) string {
	switch plugin {
	case protogen.Messages:
		return "google.golang.org/protobuf/cmd/protoc-gen-go"
	case protogen.Stubs:
		return "google.golang.org/grpc/cmd/protoc-gen-go-grpc"
	}
	return ""
}

// run answers a request by a plugin: in this process when the project pins the release that is linked into it, else by
// running what buf would run.
func (p *Project) run(ctx context.Context, pl plugin, req *pluginpb.CodeGeneratorRequest) ([]protogen.File, error) {
	name, version, err := p.pin(ctx, pl)
	if err != nil {
		return nil, err
	}
	req = proto.CloneOf(req)
	req.Parameter = proto.String(pl.opt)
	if pl.opt == "" {
		req.Parameter = nil
	}
	if version != "" && version == protogen.LinkedVersion(name) && understood(pl.opt) {
		return protogen.RunLinked(name, req)
	}
	var files []protogen.File
	for _, part := range split(req, pl.together) {
		more, err := p.exec(ctx, pl, part)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

// understood says whether the linked plugins know all parameters.
func understood(opt string) bool {
	for o := range strings.SplitSeq(opt, ",") {
		if key, _, _ := strings.Cut(o, "="); !slices.Contains([]string{"", "paths", "module"}, key) && !strings.HasPrefix(key, "M") {
			return false
		}
	}
	return true
}

// pin returns which plugin a command is, and its release. Both are empty when that cannot be told; then the command is
// run.
func (p *Project) pin(ctx context.Context, pl plugin) (name, version string, err error) {
	if len(pl.local) < 3 || pl.local[0] != "go" {
		return "", "", nil
	}
	switch args := pl.local[2:]; {
	case pl.local[1] == "tool" && len(args) == 1:
		return p.tool(ctx, pl, args[0], p.gomod)
	case pl.local[1] == "tool" && len(args) == 2 && strings.HasPrefix(args[0], "-modfile="):
		name := strings.TrimPrefix(args[0], "-modfile=")
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Root, filepath.FromSlash(name))
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return "", "", nil //nolint:nilerr // the go command says so better
		}
		mod, err := modfile.Parse(name, text, nil)
		if err != nil {
			return "", "", nil //nolint:nilerr // and this
		}
		return p.tool(ctx, pl, args[1], mod)
	case pl.local[1] == "run" && len(args) == 1:
		pkg, version, fixed := strings.Cut(args[0], "@")
		if !fixed {
			version = p.builtVersion(ctx, p.gomod, pkg)
		}
		if name := path.Base(pkg); pkg == packageOf(name) {
			return name, version, nil
		}
	}
	return "", "", nil
}

// tool looks a tool up in the lines "tool" of a go.mod, as go tool does: by its path or the last part of it.
func (p *Project) tool(ctx context.Context, pl plugin, name string, mod *modfile.File) (string, string, error) {
	for _, t := range mod.Tool {
		if t.Path == name || path.Base(t.Path) == name {
			if base := path.Base(t.Path); t.Path == packageOf(base) {
				return base, p.builtVersion(ctx, mod, t.Path), nil
			}
			return "", "", nil
		}
	}
	pkg, base := packageOf(path.Base(name)), path.Base(name)
	if pkg == "" || mod != p.gomod {
		return "", "", nil // a tool of the Go distribution, or of somebody else's go.mod: go tool knows
	}
	if !p.config.found {
		return base, protogen.LinkedVersion(base), nil // nothing is asked for, so nothing is pinned
	}
	return "", "", &problem.Error{
		Exit: problem.Environment,
		What: fmt.Sprintf("%s runs %q, but go.mod has no such tool", configFile, strings.Join(pl.local, " ")),
		At:   fmt.Sprintf("%s:%d, %s", configFile, pl.line, filepath.Join(p.ModuleDir, "go.mod")),
		Fix:  fmt.Sprintf("go get -tool %s@%s", pkg, protogen.LinkedVersion(base)),
	}
}

// versionOf is the release of the module that holds a package; empty when it is replaced or not required.
func versionOf(mod *modfile.File, pkg string) string {
	holder := holderOf(mod, pkg)
	for _, r := range mod.Replace {
		if r.Old.Path == holder {
			return ""
		}
	}
	for _, r := range mod.Require {
		if r.Mod.Path == holder {
			return r.Mod.Version
		}
	}
	return ""
}

// holderOf is the module that holds a package, of those that are required.
func holderOf(mod *modfile.File, pkg string) string {
	holder := ""
	for _, r := range mod.Require {
		if m := r.Mod.Path; (pkg == m || strings.HasPrefix(pkg, m+"/")) && len(m) > len(holder) {
			holder = m
		}
	}
	return holder
}

// split makes a request for each directory, as buf does: a plugin may rely on seeing one package at a time.
func split(req *pluginpb.CodeGeneratorRequest, together bool) []*pluginpb.CodeGeneratorRequest {
	if together {
		return []*pluginpb.CodeGeneratorRequest{req}
	}
	var parts []*pluginpb.CodeGeneratorRequest
	byDir := map[string]*pluginpb.CodeGeneratorRequest{}
	for _, name := range req.GetFileToGenerate() {
		part := byDir[path.Dir(name)]
		if part == nil {
			part = &pluginpb.CodeGeneratorRequest{Parameter: req.Parameter}
			byDir[path.Dir(name)] = part
			parts = append(parts, part)
		}
		part.FileToGenerate = append(part.FileToGenerate, name)
	}
	for _, part := range parts {
		part.ProtoFile = needed(req.GetProtoFile(), part.GetFileToGenerate())
		part.SourceFileDescriptors = slices.DeleteFunc(slices.Clone(req.GetSourceFileDescriptors()), func(d *descriptorpb.FileDescriptorProto) bool {
			return !slices.Contains(part.GetFileToGenerate(), d.GetName())
		})
	}
	return parts
}

// needed returns the files and what they import, in the order of all.
func needed(all []*descriptorpb.FileDescriptorProto, names []string) []*descriptorpb.FileDescriptorProto {
	want := map[string]bool{}
	for _, n := range names {
		want[n] = true
	}
	var out []*descriptorpb.FileDescriptorProto
	for _, d := range slices.Backward(all) { // imports come before those who import
		if want[d.GetName()] {
			out = append(out, d)
			for _, dep := range d.GetDependency() {
				want[dep] = true
			}
		}
	}
	slices.Reverse(out)
	return out
}

// exec runs the command of a plugin, with the request on its standard input.
func (p *Project) exec(ctx context.Context, pl plugin, req *pluginpb.CodeGeneratorRequest) ([]protogen.File, error) {
	wire, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode the generator request: %w", err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, pl.local[0], pl.local[1:]...)
	cmd.Dir, cmd.Env = p.Root, append(os.Environ(), "PWD="+p.Root)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(wire), &stdout, &stderr
	cmd.WaitDelay = time.Second // when it is ended, what it started may still hold its output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, pl.failed(err, stderr.String())
	}
	res := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(stdout.Bytes(), res); err != nil {
		return nil, pl.failed(fmt.Errorf("its answer is none of a plugin: %w", err), "")
	}
	return protogen.Answer(strings.Join(req.GetFileToGenerate(), ", "), res)
}

func (pl plugin) failed(err error, stderr string) error {
	said, goFailed := firstOf(stderr)
	e := &problem.Error{
		What: fmt.Sprintf("the plugin %q failed", strings.Join(pl.local, " ")),
		At:   fmt.Sprintf("%s:%d: %s", configFile, pl.line, said),
		Fix:  "mend the plugin, or take it out of " + configFile,
		Err:  err,
	}
	if said == "" {
		e.At = fmt.Sprintf("%s:%d: %v", configFile, pl.line, err)
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		e.Exit, e.Fix = problem.Environment, "install "+pl.local[0]+", or change "+configFile
	case pl.local[0] == "go" && goFailed: // the plugin did not come to run
		e.Exit, e.Fix = problem.Environment, "go mod tidy && newsvc generate      (set GOPROXY if your network needs a mirror)"
	}
	return e
}

// firstOf is the first line that says something, and whether it is the go command that says it.
func firstOf(stderr string) (line string, goFailed bool) {
	for text := range strings.Lines(stderr) {
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "# ") || strings.HasPrefix(text, "go: downloading ") {
			continue
		}
		if line == "" {
			line = text
		}
		for _, sign := range []string{"go: ", "missing go.sum entry", "module lookup disabled", "no required module provides"} {
			goFailed = goFailed || strings.HasPrefix(text, sign) || sign != "go: " && strings.Contains(text, sign)
		}
	}
	return line, goFailed
}
