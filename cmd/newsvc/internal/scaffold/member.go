package scaffold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/version"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// inWorkspace completes the spec of a service of a workspace: the framework is the one that the workspace names; only
// when it names none yet, as after `newsvc init .` in somebody's repository, it is found as for a new project.
func (o Options) inWorkspace(ctx context.Context, s Spec, p place) (Spec, error) {
	text, err := os.ReadFile(filepath.Join(p.Root, "go.mod"))
	if err != nil {
		return Spec{}, &problem.Error{
			Exit: problem.Environment, What: "the workspace has no go.mod", At: filepath.Join(p.Root, "newsvc.yaml"),
			Fix: "cd " + o.shown(p.Root) + " && go mod init example.com/" + filepath.Base(p.Root), Err: err,
		}
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil || mod.Module == nil {
		return Spec{}, &problem.Error{
			Exit: problem.Environment, What: "the go.mod of the workspace cannot be read", At: fmt.Sprintf("%s: %v", filepath.Join(p.Root, "go.mod"), err),
			Fix: "correct the file; go mod edit -json shows what is wrong", Err: err,
		}
	}
	s.Module = mod.Module.Mod.Path
	if f, replace, ok := named(mod, p.Root); ok {
		if o.FrameworkFlag != "" {
			return Spec{}, &problem.Error{
				Exit: problem.Usage, What: "--framework has no meaning in a workspace whose go.mod names one: " + f.String(),
				Fix: "newsvc create " + s.Name.Service,
			}
		}
		s.Framework, s.Replace = f, replace
		return s, nil
	}
	s.Framework, s.Replace, s.Sums, err = o.framework(ctx, p.Root)
	return s, err
}

// named is the framework that a go.mod in root refers to.
func named(mod *modfile.File, root string) (f Framework, replace string, ok bool) {
	for _, r := range mod.Require {
		if r.Mod.Path == buildinfo.Module {
			f.Version, ok = r.Mod.Version, true
		}
	}
	for _, r := range mod.Replace {
		if r.Old.Path != buildinfo.Module || r.New.Version != "" || !ok {
			continue
		}
		dir := filepath.FromSlash(r.New.Path)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(root, dir)
		}
		return Framework{Dir: dir}, r.New.Path, true
	}
	return f, "", ok
}

// intoWorkspace plans the files of a service, and what has to be said about it in files of the workspace.
func (o Options) intoWorkspace(p place, s Spec, files []File, res *Result) (*changes.Set, error) {
	res.Root = o.shown(p.Root)
	set := &changes.Set{}
	for _, f := range files {
		name := filepath.Join(p.Root, filepath.FromSlash(f.Path))
		if _, err := os.Lstat(name); err == nil {
			return nil, &problem.Error{
				Exit: problem.Conflict, What: f.Path + " already exists, and is where the new service has to have its own",
				At: name, Fix: "move it away, or choose another name for the service",
			}
		}
		if err := set.Write(name, f.Content); err != nil {
			return nil, err
		}
	}
	for _, update := range []struct {
		name string
		edit func([]byte) ([]byte, error)
	}{
		{"go.mod", s.completeMod}, {"go.sum", s.completeSum}, {"buf.gen.yaml", s.completeBuf},
	} {
		name := filepath.Join(p.Root, update.name)
		old, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		text, err := update.edit(old)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(text, old) {
			continue
		}
		if err := set.Write(name, text); err != nil {
			return nil, err
		}
		if update.name == "go.mod" {
			res.Raised = raised(old, text)
		}
		res.Updated = append(res.Updated, update.name)
	}
	return set, nil
}

// completeMod adds what the service needs to a go.mod that lacks it; one that names the framework has it.
func (s Spec) completeMod(text []byte) ([]byte, error) {
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return nil, err
	}
	if _, _, ok := named(mod, "/"); ok {
		return text, nil
	}
	v, _, err := s.view()
	if err != nil {
		return nil, err
	}
	if mod.Go == nil || version.Compare("go"+mod.Go.Version, "go"+v.Go) < 0 { // 1.26 is older than 1.26.0
		if err := mod.AddGoStmt(v.Go); err != nil {
			return nil, err
		}
	}
	has := map[string]string{}
	for _, r := range mod.Require {
		has[r.Mod.Path] = r.Mod.Version
	}
	for indirect, list := range [][]requirement{v.Direct, v.Indirect} {
		for _, r := range list {
			switch old, ok := has[r.Path]; {
			case !ok:
				mod.AddNewRequire(r.Path, r.Version, indirect == 1)
			case semver.Compare(old, r.Version) < 0:
				if err := mod.AddRequire(r.Path, r.Version); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, t := range v.Tools {
		if err := mod.AddTool(t); err != nil {
			return nil, err
		}
	}
	if s.Replace != "" {
		if err := mod.AddReplace(buildinfo.Module, "", s.Replace, ""); err != nil {
			return nil, err
		}
	}
	mod.SetRequireSeparateIndirect(mod.Require)
	mod.Cleanup()
	return mod.Format()
}

// raised tells which versions that were in a go.mod are newer now.
func raised(old, text []byte) []string {
	before, err := modfile.ParseLax("go.mod", old, nil)
	if err != nil {
		return nil
	}
	after, err := modfile.ParseLax("go.mod", text, nil)
	if err != nil {
		return nil
	}
	var list []string
	if before.Go != nil && before.Go.Version != after.Go.Version {
		list = append(list, "go "+before.Go.Version+" -> "+after.Go.Version)
	}
	now := map[string]string{}
	for _, r := range after.Require {
		now[r.Mod.Path] = r.Mod.Version
	}
	for _, r := range before.Require {
		if v := now[r.Mod.Path]; v != r.Mod.Version {
			list = append(list, r.Mod.Path+" "+r.Mod.Version+" -> "+v)
		}
	}
	return list
}

// completeSum adds missing lines, where the go command would have them.
func (s Spec) completeSum(text []byte) ([]byte, error) {
	_, sum, err := s.view()
	if err != nil {
		return nil, err
	}
	lines := map[module.Version][]string{}
	var order []module.Version
	added := false
	for i, list := range [][]byte{text, sum} {
		for l := range strings.Lines(string(list)) {
			f := strings.Fields(l)
			if len(f) != 3 {
				continue // the go command passes over it too
			}
			m := module.Version{Path: f[0], Version: f[1]}
			l = strings.Join(f, " ") + "\n"
			if slices.Contains(lines[m], l) {
				continue
			}
			if lines[m] == nil {
				order = append(order, m)
			}
			lines[m] = append(lines[m], l)
			added = added || i == 1
		}
	}
	if !added {
		return text, nil
	}
	module.Sort(order)
	var b strings.Builder
	for _, m := range order {
		b.WriteString(strings.Join(lines[m], ""))
	}
	return []byte(b.String()), nil
}

// completeBuf names the Go package of an API for which buf would choose another name than newsvc: one with underscores.
// A buf.gen.yaml without our prefix is its author's business.
func (s Spec) completeBuf(text []byte) ([]byte, error) {
	prefix := "    - file_option: go_package_prefix\n      value: " + s.ProtoImport() + "\n"
	at := strings.Index(string(text), prefix)
	entry := fmt.Sprintf("    - file_option: go_package\n      path: %[1]s/v1\n      value: %[2]s/%[1]s/v1;%[3]s\n", s.Name.Domain, s.ProtoImport(), s.Name.Stubs)
	if s.Kind == Gateway || !strings.Contains(s.Name.Domain, "_") || at < 0 || strings.Contains(string(text), entry) {
		return text, nil
	}
	at += len(prefix)
	return slices.Concat(text[:at], []byte(entry), text[at:]), nil
}
