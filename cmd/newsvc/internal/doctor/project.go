package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
	"github.com/newsvc/newsvc/templates"
)

const install = "go install " + buildinfo.Module + "/cmd/newsvc@"

// project says why it is not known what project this is: newsvc.yaml cannot be read. Nothing of it can be looked at then.
func (x *examination) project(context.Context) []Finding {
	var p *problem.Error
	switch {
	case x.placeErr == nil:
		return nil
	case errors.As(x.placeErr, &p):
		return []Finding{x.asFinding(p)}
	}
	return []Finding{{Level: Fail, What: x.placeErr.Error(), Fix: edit(filepath.Join(x.Dir, workspace.MarkerFile))}}
}

// versions compares this newsvc with the framework that the project uses, and with the templates that wrote it.
func (x *examination) versions(context.Context) []Finding {
	switch {
	case x.goErr != nil:
		return []Finding{{Level: Fail, What: "go.mod cannot be read", At: x.goErr.Error(), Fix: edit(filepath.Join(x.place.Root, "go.mod"))}}
	case x.gomod == nil:
		return one(Skip, "newsvc %s; no module here to compare it with", x.Build.Version)
	}
	found := x.frameworkVersion()
	if written := writtenBy(x.place.ServiceDir); written > templates.Version {
		f := Finding{
			Level: Fail, What: fmt.Sprintf("a newer newsvc wrote this project: template %d, this one knows up to %d", written, templates.Version),
			At: filepath.Join(x.place.ServiceDir, workspace.MarkerFile), Fix: x.installLike(),
		}
		if len(found) == 1 && found[0].Fix != "" {
			f.Fix = found[0].Fix // of the newsvc that fits the framework; two would drive each other out
		}
		found = append(found, f)
	}
	return found
}

// frameworkVersion is the comparison with the project's framework. Only two releases, or two checkouts, can be told
// apart; a checkout and a release may fit or not.
func (x *examination) frameworkVersion() []Finding {
	if x.place.Kind == workspace.Checkout {
		return x.sameCheckout(x.place.Root)
	}
	if dir := frameworkDir(x.gomod, x.place.Root); dir != "" {
		return x.sameCheckout(dir)
	}
	for _, r := range x.gomod.Require {
		if r.Mod.Path != buildinfo.Module {
			continue
		}
		if !x.Build.Release() || semver.Compare(semver.MajorMinor(x.Build.Version), semver.MajorMinor(r.Mod.Version)) == 0 {
			return one(OK, "newsvc %s, framework %s", x.Build.Version, r.Mod.Version)
		}
		return []Finding{{
			Level: Warn, What: fmt.Sprintf("newsvc is %s, the framework of this project %s", x.Build.Version, r.Mod.Version),
			At: fmt.Sprintf("%s:%d", filepath.Join(x.place.Root, "go.mod"), r.Syntax.Start.Line), Fix: install + r.Mod.Version,
		}}
	}
	return one(Skip, "newsvc %s; this module does not use the framework", x.Build.Version)
}

// frameworkDir is the checkout that go.mod replaces the framework by; empty when it does not.
func frameworkDir(f *modfile.File, root string) string {
	for _, r := range f.Replace {
		if r.Old.Path == buildinfo.Module && r.New.Version == "" {
			return absolute(root, r.New.Path)
		}
	}
	return ""
}

func absolute(root, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(root, path)
}

// sameCheckout says whether this newsvc was built from the checkout that the project uses.
func (x *examination) sameCheckout(dir string) []Finding {
	own, err := scaffold.FindFramework(scaffold.FrameworkQuery{Build: x.Build, Cwd: dir})
	from := "release " + x.Build.Version
	if err == nil && own.Dir != "" {
		from = own.Dir
	}
	if sameDir(from, dir) {
		return one(OK, "newsvc and the framework are of one checkout, %s", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return one(Skip, "newsvc %s; the framework of this project is not there, see replace", x.Build.Version)
	}
	return []Finding{{
		Level: Warn, What: fmt.Sprintf("newsvc is of %s, this project uses the framework in %s", from, dir),
		Fix: "go install -C " + quote(dir) + " ./cmd/newsvc",
	}}
}

// installLike is the command that installs the newsvc which fits the project.
func (x *examination) installLike() string {
	if dir := frameworkDir(x.gomod, x.place.Root); dir != "" {
		return "go install -C " + quote(dir) + " ./cmd/newsvc"
	}
	return install + "latest"
}

// writtenBy is the version of the template that wrote a service; 0 when that is not known.
func writtenBy(dir string) int {
	text, err := os.ReadFile(filepath.Join(dir, ".newsvc", "template.json"))
	if err != nil || dir == "" {
		return 0
	}
	var about struct{ Version int }
	if json.Unmarshal(text, &about) != nil {
		return 0
	}
	return about.Version
}

// replaced looks for the directories that go.mod refers to.
func (x *examination) replaced(context.Context) []Finding {
	if x.gomod == nil {
		return nil
	}
	var found []Finding
	there := 0
	for _, r := range x.gomod.Replace {
		if r.New.Version != "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(absolute(x.place.Root, r.New.Path), "go.mod")); err == nil {
			there++
			continue
		}
		f := Finding{
			Level: Fail, What: fmt.Sprintf("%s is replaced by %s, and no module is there", r.Old.Path, r.New.Path),
			At: fmt.Sprintf("%s:%d", filepath.Join(x.place.Root, "go.mod"), r.Syntax.Start.Line), Fix: "go mod edit -dropreplace=" + quote(strings.TrimSuffix(r.Old.Path+"@"+r.Old.Version, "@")),
		}
		if own, err := scaffold.FindFramework(scaffold.FrameworkQuery{Build: x.Build, Cwd: x.Dir}); r.Old.Path == buildinfo.Module && err == nil && own.Dir != "" {
			f.Fix = "go mod edit -replace=" + quote(buildinfo.Module+"="+own.Dir)
		}
		found = append(found, f)
	}
	if found == nil && there > 0 {
		return one(OK, "what go.mod replaces is there (%d)", there)
	}
	return found
}

// generated asks generate whether the Go code of the .proto files is up to date.
func (x *examination) generated(ctx context.Context) []Finding {
	if x.goErr != nil || x.placeErr != nil {
		return one(Skip, "it is not known what project this is")
	}
	res, err := generate.Run(ctx, generate.Options{Dir: x.Dir, Check: true})
	var p *problem.Error
	switch {
	case err == nil:
		return one(OK, "the Go code of the .proto files is up to date (%d files)", res.Same)
	case errors.As(err, &p) && p.Exit == problem.Usage:
		return one(Skip, "%s", p.What)
	case errors.As(err, &p):
		f := x.asFinding(p)
		if strings.HasPrefix(f.Fix, edit()) {
			f.Fix += " && newsvc generate"
		}
		return []Finding{f}
	case ctx.Err() != nil:
		return one(Skip, "not finished within %v", x.Limit)
	}
	return []Finding{{Level: Fail, What: err.Error(), Fix: "newsvc generate"}}
}
