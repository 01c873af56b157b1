// Package scaffold writes new services and workspaces: it renders the trees of package templates, generates the Go code of
// their .proto files, and puts the result on disk in one step. It changes no file of a project that exists, but for what a
// workspace has to say about a new service; it runs no `go mod tidy` and asks no questions. Package cli reads the
// command line.
package scaffold

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// Options say what to create and where.
type Options struct {
	Name   string // the service
	Kind   string // [Service] or [Gateway]; empty means [Service]
	Module string // module of a stand-alone project or a workspace; empty means example.com/NAME
	Cwd    string // absolute; it and what is above decide where the project goes
	From   string // how the user calls Cwd, for paths in messages; empty means "."
	// Overlay is a directory with files laid over those of the template; empty for none, relative to Cwd.
	Overlay string
	// Framework, as the flag and NEWSVC_FRAMEWORK give it; empty lets [FindFramework] decide.
	FrameworkFlag, FrameworkEnv string
	Build                       buildinfo.Info
	DryRun                      bool      // render and check everything, write nothing
	NoVerify                    bool      // do not build the project afterwards
	Progress                    io.Writer // one line per step
}

// Result is what was created.
type Result struct {
	Name      string   `json:"name,omitempty"`
	Kind      string   `json:"kind"`
	Dir       string   `json:"dir"` // as the user would type it
	Module    string   `json:"module"`
	Framework string   `json:"framework"`
	Files     []string `json:"files"`             // written, relative to Dir; in a workspace, relative to its root
	Updated   []string `json:"updated,omitempty"` // files of a workspace that had to be changed
	Raised    []string `json:"raised,omitempty"`  // versions in the go.mod of a workspace that were older than what a service needs
	Notes     []string `json:"notes,omitempty"`   // what else the author should know of files that are theirs
	Kept      []string `json:"kept,omitempty"`    // conflicts: files that were there and say something else
	DryRun    bool     `json:"dry_run,omitempty"`
	Root      string   `json:"-"` // what Files are relative to, as the user would type it
}

// Create writes a new service. Either the whole project is there afterwards or nothing is; only a project that does
// not build stays, so that its author can look. Errors are [*problem.Error].
func Create(ctx context.Context, o Options) (Result, error) {
	name, err := parseName(o.Name)
	if err != nil {
		return Result{}, err
	}
	if o.Kind != "" && o.Kind != Service && o.Kind != Gateway {
		return Result{}, &problem.Error{
			Exit: problem.Usage, What: fmt.Sprintf("--kind %q is neither service nor gateway", o.Kind),
			Fix: "newsvc create " + name.Service + " --kind gateway",
		}
	}
	place, err := o.findPlace(name)
	if err != nil {
		return Result{}, err
	}
	spec, err := o.spec(ctx, name, place)
	if err != nil {
		return Result{}, err
	}
	started := time.Now()
	files, err := Render(ctx, spec)
	if err != nil {
		return Result{}, o.cannotRender(name, err)
	}
	rendered := time.Since(started)
	if !o.NoVerify && !o.DryRun {
		if err := findGo(); err != nil {
			return Result{}, err
		}
	}
	return o.put(ctx, place, spec, files, rendered)
}

// put writes the files, or says what would be written.
func (o Options) put(ctx context.Context, p place, spec Spec, files []File, rendered time.Duration) (Result, error) {
	res := Result{
		Name: spec.Name.Service, Kind: spec.kind(), Dir: p.Shown, Module: spec.Module, Framework: spec.Framework.String(), DryRun: o.DryRun, Root: p.Shown,
	}
	for _, f := range files {
		res.Files = append(res.Files, f.Path)
	}
	o.about(p, spec)
	apply := func() error { return write(p.To, files) }
	if spec.InWorkspace {
		set, err := o.intoWorkspace(p, spec, files, &res)
		if err != nil {
			return Result{}, err
		}
		apply = set.Apply
	}
	if o.DryRun {
		o.say("dry run", "%d files in %s, nothing is written", len(files), p.Shown)
		return res, nil
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	if err := apply(); err != nil {
		return Result{}, cannotWrite(p.Shown, "choose another with -C DIR", err)
	}
	generated := ""
	if spec.Kind != Gateway {
		generated = ", generated code among them"
	}
	o.say("create", "%d files in %s%s, %d ms", len(files), p.Shown, generated, rendered.Milliseconds())
	for _, name := range res.Updated {
		o.say("update", "%s", name)
	}
	for _, what := range res.Raised {
		o.say("raise", "%s, which a service needs", what)
	}
	if spec.InWorkspace {
		res.Notes = foreignBuf(p.Root, spec)
	}
	for _, note := range res.Notes {
		o.say("note", "%s", note)
	}
	if !o.NoVerify {
		return res, o.verify(ctx, p, spec.Home() == "")
	}
	return res, nil
}

// about tells what was decided.
func (o Options) about(p place, spec Spec) {
	switch {
	case spec.InRepo:
		o.say("module", "%s", spec.Module)
		o.say("framework", "this repository; the service becomes one of its examples, without a go.mod of its own")
	case spec.InWorkspace:
		o.say("module", "%s, the workspace in %s", spec.Module, o.shown(p.Root))
		o.say("framework", "%s", spec.refers())
	default:
		hint := ""
		if o.Module == "" {
			hint = "        (set with --module)"
		}
		o.say("module", "%s%s", spec.Module, hint)
		o.say("framework", "%s", spec.refers())
	}
	if p.Kind == workspace.Module {
		o.say("note", "%s becomes a module of its own inside module %s; to make that a workspace of services: newsvc init %s", p.Shown, p.Module, o.shown(p.Root))
	}
}

// refers is how go.mod refers to the framework.
func (s Spec) refers() string {
	if s.Replace != "" {
		return buildinfo.Module + " => " + s.Replace
	}
	return s.Framework.String()
}

func (o Options) shown(dir string) string {
	rel, err := filepath.Rel(o.Cwd, dir)
	if err != nil {
		return dir
	}
	if rel == "." && (o.From == "" || o.From == ".") {
		return "."
	}
	return show(o.From, rel)
}

func (o Options) say(step, format string, args ...any) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, "  %-9s %s\n", step, fmt.Sprintf(format, args...))
	}
}

func parseName(service string) (names.Name, error) {
	name, err := names.Parse(service)
	if err != nil {
		return names.Name{}, &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "newsvc create " + names.Suggest(service), Err: err}
	}
	return name, nil
}

// cannotRender blames the overlay when there is one: the templates of this binary are tested.
func (o Options) cannotRender(name names.Name, err error) error {
	if o.Overlay == "" {
		return fmt.Errorf("render the service %q: %w", name.Service, err)
	}
	return &problem.Error{
		Exit: problem.Usage, What: fmt.Sprintf("the files of --template %q do not make a service", o.Overlay),
		At: strings.TrimPrefix(err.Error(), "template: "), Fix: "correct the file, or leave --template out", Err: err,
	}
}

// overlay opens the directory of --template.
func (o Options) overlay() (fs.FS, error) {
	if o.Overlay == "" {
		return nil, nil
	}
	dir := o.Overlay
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(o.Cwd, dir)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, &problem.Error{
			Exit: problem.Usage, What: fmt.Sprintf("--template %q is no directory", o.Overlay), At: dir,
			Fix: "name a directory whose files are to be added to the project, or to take the place of those of the template", Err: err,
		}
	}
	return os.DirFS(dir), nil
}

// spec completes what Render needs with what lies outside the command line.
func (o Options) spec(ctx context.Context, name names.Name, p place) (Spec, error) {
	s := Spec{Kind: o.Kind, Name: name, Module: o.Module, CLI: o.Build.Version, InRepo: p.Kind == workspace.Checkout, InWorkspace: p.Kind == workspace.Workspace}
	var err error
	if s.Overlay, err = o.overlay(); err != nil {
		return Spec{}, err
	}
	switch {
	case s.InRepo:
		s.Module, s.Framework = buildinfo.Module, Framework{Dir: p.Root}
		return s, o.noModule(name, "the framework's own repository: an example belongs to its module")
	case s.InWorkspace:
		if err := o.noModule(name, "a workspace: its services share one module"); err != nil {
			return Spec{}, err
		}
		return o.inWorkspace(ctx, s, p)
	}
	if s.Module == "" {
		s.Module = "example.com/" + name.Service
	}
	if err := checkModule(s.Module, "newsvc create "+name.Service, name.Service); err != nil {
		return Spec{}, err
	}
	s.Framework, s.Replace, s.Sums, err = o.framework(ctx, p.To)
	return s, err
}

// framework finds out how the go.mod in dir is to refer to the framework.
func (o Options) framework(ctx context.Context, dir string) (f Framework, replace string, sums []string, err error) {
	f, err = FindFramework(FrameworkQuery{Flag: o.FrameworkFlag, Env: o.FrameworkEnv, Build: o.Build, Cwd: o.Cwd})
	switch {
	case err != nil:
	case f.Dir != "":
		replace = replacePath(dir, f.Dir)
	default:
		sums, err = o.downloadSums(ctx, f.Version)
	}
	return f, replace, sums, err
}

func (o Options) noModule(name names.Name, where string) error {
	if o.Module == "" {
		return nil
	}
	return &problem.Error{Exit: problem.Usage, What: "--module has no meaning inside " + where, Fix: "newsvc create " + name.Service}
}

func checkModule(m, command, name string) error {
	err := module.CheckPath(m)
	if err == nil && m == buildinfo.Module {
		err = fmt.Errorf("it is the framework's own")
	}
	if err == nil {
		return nil
	}
	return &problem.Error{
		Exit: problem.Usage,
		What: fmt.Sprintf("--module %q is no module path: %v", m, rootCause(err)),
		Fix:  command + " --module example.com/" + name,
		Err:  err,
	}
}
