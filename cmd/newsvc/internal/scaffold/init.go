package scaffold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
	"github.com/newsvc/newsvc/templates"
)

// fromService are the files of a workspace that are those of a service with a module of its own.
func fromService() []string {
	return []string{".golangci.yml", ".github/workflows/ci.yml", ".newsvc/.gitignore", "buf.yaml", "go.mod"}
}

// RenderWorkspace returns the files of a new workspace, sorted by path. Of s it takes Module, Framework and what belongs to that.
func RenderWorkspace(s Spec) ([]File, error) {
	s.InWorkspace = true
	v, sum, err := s.view()
	if err != nil {
		return nil, err
	}
	v.Import, v.Home = s.Module, ""
	files, err := renderLayers([]layer{
		{templates.FS, "service", func(p string) bool { return !slices.Contains(fromService(), p) }},
		{templates.FS, "workspace", func(string) bool { return false }},
	}, v)
	if err != nil {
		return nil, err
	}
	base, err := pristine("", files)
	if err != nil {
		return nil, err
	}
	files = append(files, base, File{"go.sum", sum})
	about, err := record{Template: "workspace", Newsvc: s.CLI, Module: s.Module}.about("", files)
	if err != nil {
		return nil, err
	}
	return sorted(append(files, about)), nil
}

// Init makes dir, relative to o.Cwd or absolute, a workspace. Files that are there are kept: those that say something else
// than what would have been written are listed in the result and make a [problem.Conflict], apart from go.mod and go.sum, which
// create completes. In a workspace nothing is left to do.
func Init(ctx context.Context, o Options, dir string) (Result, error) {
	to := dir
	if !filepath.IsAbs(to) {
		to = filepath.Join(o.Cwd, dir)
	}
	shown := o.shown(to)
	res := Result{Kind: "workspace", Dir: shown, Root: shown, Files: []string{}, DryRun: o.DryRun}
	around, err := o.forWorkspace(to)
	if err != nil {
		return Result{}, err
	}
	if around.Kind == workspace.Workspace && around.Root == to {
		res.Module = around.Module
		o.say("same", "%s is a workspace; nothing to do", shown)
		return res, nil
	}
	spec := Spec{Module: o.Module, CLI: o.Build.Version}
	if around.Root == to && around.Module != "" {
		if o.Module != "" && o.Module != around.Module {
			return Result{}, &problem.Error{
				Exit: problem.Conflict, What: fmt.Sprintf("--module %q, but this is module %s", o.Module, around.Module), At: filepath.Join(to, "go.mod"), Fix: "newsvc init " + dir,
			}
		}
		spec.Module = around.Module
	}
	if spec.Module == "" {
		spec.Module = "example.com/" + names.Suggest(filepath.Base(to))
	}
	if err := checkModule(spec.Module, "newsvc init "+dir, path.Base(names.Suggest(filepath.Base(to)))); err != nil {
		return Result{}, err
	}
	if spec.Framework, spec.Replace, spec.Sums, err = o.framework(ctx, to); err != nil {
		return Result{}, err
	}
	res.Module, res.Framework = spec.Module, spec.Framework.String()
	files, err := RenderWorkspace(spec)
	if err != nil {
		return Result{}, fmt.Errorf("render a workspace: %w", err)
	}
	return o.add(to, files, res)
}

// forWorkspace refuses places that are no good for a workspace.
func (o Options) forWorkspace(to string) (workspace.Place, error) {
	existing := to
	for {
		info, err := os.Stat(existing)
		if err == nil && info.IsDir() || filepath.Dir(existing) == existing {
			break
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return workspace.Place{}, &problem.Error{
				Exit: problem.Conflict, What: o.shown(existing) + " already exists and is not a directory", At: existing, Fix: "newsvc init OTHER-DIRECTORY", Err: err,
			}
		}
		existing = filepath.Dir(existing)
	}
	around, err := workspace.Find(existing)
	if err != nil {
		return workspace.Place{}, err
	}
	refuse := func(what, fix string) error {
		return &problem.Error{Exit: problem.Usage, What: what, At: filepath.Join(around.Root, "go.mod"), Fix: fix}
	}
	switch {
	case around.Kind == workspace.Checkout:
		err = refuse("this is the framework's own repository, whose services are examples", "choose a directory outside: newsvc init ../acme      or: newsvc create NAME")
	case around.ServiceDir != "":
		err = refuse(fmt.Sprintf("this is the service %s; a workspace is around services, not in one", around.ServiceName), "choose a directory outside of "+around.ServiceDir)
	case around.Kind == workspace.Workspace && around.Root != to:
		err = refuse("this is in a workspace already", "newsvc create NAME")
	}
	return around, err
}

// add writes the files that are not there yet.
func (o Options) add(to string, files []File, res Result) (Result, error) {
	set := &changes.Set{}
	_, noMod := os.Lstat(filepath.Join(to, "go.mod"))
	for _, f := range files {
		name := filepath.Join(to, filepath.FromSlash(f.Path))
		old, err := os.ReadFile(name)
		switch _, statErr := os.Lstat(name); {
		case err == nil && string(old) == string(f.Content):
		case f.Path == "go.mod" && statErr == nil:
			o.say("keep", "%s; newsvc create adds what a service needs", f.Path)
		case f.Path == "go.sum" && (statErr == nil || noMod == nil): // belongs to go.mod
		case statErr == nil:
			res.Kept = append(res.Kept, f.Path)
		default:
			if err := set.Write(name, f.Content); err != nil {
				return Result{}, err
			}
			res.Files = append(res.Files, f.Path)
		}
	}
	o.say("module", "%s", res.Module)
	o.say("framework", "%s", res.Framework)
	if o.DryRun {
		o.say("dry run", "%d files in %s, nothing is written", len(res.Files), res.Dir)
	} else {
		if err := set.Apply(); err != nil {
			return Result{}, cannotWrite(res.Dir, "choose another", err)
		}
		o.say("create", "%d files in %s", len(res.Files), res.Dir)
	}
	if len(res.Kept) == 0 {
		return res, nil
	}
	subject := "1 file was there and stays as it was"
	if n := len(res.Kept); n > 1 {
		subject = fmt.Sprintf("%d files were there and stay as they were", n)
	}
	return res, &problem.Error{
		Exit: problem.Conflict, What: subject, At: strings.Join(res.Kept, ", "),
		Fix: "take over what you miss from " + path.Join(filepath.ToSlash(res.Dir), ".newsvc/base.txtar") + ", which holds what they would have been",
	}
}
