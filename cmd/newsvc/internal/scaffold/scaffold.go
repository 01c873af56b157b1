// Package scaffold writes new services: it renders the trees of package templates, generates the Go code of their
// .proto files, and puts the result on disk in one step. It never changes a project that exists, runs no `go mod tidy`
// and asks no questions; package cli reads the command line.
package scaffold

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// Options say what to create and where.
type Options struct {
	Name   string // the service
	Module string // module of a stand-alone project; empty means example.com/NAME
	Cwd    string // absolute; the project becomes a directory of it
	From   string // how the user calls Cwd, for paths in messages; empty means "."
	// Framework, as the flag and NEWSVC_FRAMEWORK give it; empty lets [FindFramework] decide.
	FrameworkFlag, FrameworkEnv string
	Build                       buildinfo.Info
	DryRun                      bool      // render and check everything, write nothing
	NoVerify                    bool      // do not build the project afterwards
	Progress                    io.Writer // one line per step
}

// Result is what was created.
type Result struct {
	Name      string   `json:"name"`
	Dir       string   `json:"dir"` // as the user would type it
	Module    string   `json:"module"`
	Framework string   `json:"framework"`
	Files     []string `json:"files"`
	DryRun    bool     `json:"dry_run,omitempty"`
}

// Create writes a new service. Either the whole project is there afterwards or nothing is; only a project that does
// not build stays, so that its author can look. Errors are [*problem.Error].
func Create(ctx context.Context, o Options) (Result, error) {
	name, err := parseName(o.Name)
	if err != nil {
		return Result{}, err
	}
	place, err := findPlace(name, o.Cwd, o.From)
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
		return Result{}, fmt.Errorf("render the service %q: %w", name.Service, err)
	}
	rendered := time.Since(started)
	if !o.NoVerify && !o.DryRun {
		if err := findGo(); err != nil {
			return Result{}, err
		}
	}
	res := Result{Name: name.Service, Dir: place.Shown, Module: spec.Module, Framework: spec.Framework.String(), DryRun: o.DryRun}
	for _, f := range files {
		res.Files = append(res.Files, f.Path)
	}
	o.say("module", "%s%s", spec.Module, o.moduleHint(place))
	if place.InRepo {
		o.say("framework", "this repository; the service becomes one of its examples, without a go.mod of its own")
	} else {
		o.say("framework", "%s", spec.Framework)
	}
	if place.Outer != "" {
		o.say("note", "%s becomes a module of its own inside module %s", place.Shown, place.Outer)
	}
	if o.DryRun {
		o.say("dry run", "%d files in %s, nothing is written", len(files), place.Shown)
		return res, nil
	}
	if err := write(place.Dir, files); err != nil {
		return Result{}, &problem.Error{What: fmt.Sprintf("cannot write %s: %v", place.Shown, err), Fix: "make the directory writable, or choose another with -C DIR", Err: err}
	}
	o.say("create", "%d files in %s, generated code among them, %d ms", len(files), place.Shown, rendered.Milliseconds())
	if !o.NoVerify {
		return res, o.verify(ctx, place)
	}
	return res, nil
}

func (o Options) say(step, format string, args ...any) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, "  %-9s %s\n", step, fmt.Sprintf(format, args...))
	}
}

func (o Options) moduleHint(p place) string {
	if o.Module == "" && !p.InRepo {
		return "        (set with --module)"
	}
	return ""
}

func parseName(service string) (names.Name, error) {
	name, err := names.Parse(service)
	if err != nil {
		return names.Name{}, &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "newsvc create " + names.Suggest(service), Err: err}
	}
	return name, nil
}

// spec completes what Render needs with what lies outside the command line.
func (o Options) spec(ctx context.Context, name names.Name, p place) (Spec, error) {
	s := Spec{Name: name, Module: o.Module, InRepo: p.InRepo, CLI: o.Build.Version}
	if p.InRepo {
		if o.Module != "" {
			return Spec{}, &problem.Error{
				Exit: problem.Usage,
				What: "--module has no meaning inside the framework's own repository: an example belongs to its module",
				Fix:  "newsvc create " + name.Service,
			}
		}
		s.Module = buildinfo.Module
		s.Framework = Framework{Dir: p.Root}
		return s, nil
	}
	if s.Module == "" {
		s.Module = "example.com/" + name.Service
	}
	if err := checkModule(s.Module, name.Service); err != nil {
		return Spec{}, err
	}
	var err error
	s.Framework, err = FindFramework(FrameworkQuery{Flag: o.FrameworkFlag, Env: o.FrameworkEnv, Build: o.Build, Cwd: o.Cwd})
	if err != nil {
		return Spec{}, err
	}
	if s.Framework.Dir != "" {
		s.Replace = replacePath(p.Dir, s.Framework.Dir)
		return s, nil
	}
	s.Sums, err = downloadSums(ctx, s.Framework.Version)
	return s, err
}

func checkModule(m, service string) error {
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
		Fix:  "newsvc create " + service + " --module example.com/" + service,
		Err:  err,
	}
}

// place is where the project goes.
type place struct {
	Dir    string // absolute
	Shown  string // as the user would type it
	InRepo bool   // below examples/ of the framework's own repository
	Root   string // root of that repository
	Outer  string // module that a stand-alone project would lie in; empty for none
}

// findPlace decides by the go.mod above the current directory, and refuses a place that is taken.
func findPlace(name names.Name, cwd, from string) (place, error) {
	p := place{Dir: filepath.Join(cwd, name.Service), Shown: show(from, name.Service)}
	for dir := cwd; ; dir = filepath.Dir(dir) {
		m := moduleOf(dir)
		if m == buildinfo.Module {
			p = place{Dir: filepath.Join(dir, "examples", name.Service), InRepo: true, Root: dir}
			rel, err := filepath.Rel(cwd, p.Dir)
			if err != nil {
				return place{}, err
			}
			p.Shown = show(from, rel)
			break
		}
		if m != "" {
			p.Outer = m
			break
		}
		if filepath.Dir(dir) == dir {
			break
		}
	}
	if err := vacant(p, name); err != nil {
		return place{}, err
	}
	if p.InRepo {
		return p, otherDomain(p, name)
	}
	return p, notInService(cwd, name)
}

// show is a path below from as the user would type it.
func show(from, rel string) string {
	p := filepath.ToSlash(filepath.Join(from, rel))
	if filepath.IsAbs(p) || strings.HasPrefix(p, "../") {
		return p
	}
	return "./" + p
}

// Import is the import path of the project's root.
func (s Spec) Import() string {
	if s.InRepo {
		return path.Join(buildinfo.Module, "examples", s.Name.Service)
	}
	return s.Module
}

func vacant(p place, name names.Name) error {
	info, err := os.Lstat(p.Dir) // a link is somebody's, wherever it leads
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return &problem.Error{What: fmt.Sprintf("cannot look at %s: %v", p.Shown, rootCause(err)), Fix: "choose another directory with -C DIR", Err: err}
	}
	var free string
	for n := 2; ; n++ {
		free = fmt.Sprintf("%s-%d", name.Service, n)
		if _, err := os.Lstat(filepath.Join(filepath.Dir(p.Dir), free)); os.IsNotExist(err) {
			break
		}
	}
	taken := &problem.Error{Exit: problem.Conflict, Fix: "newsvc create " + names.Suggest(free) + "      or choose another directory: -C DIR"}
	if info.Mode()&os.ModeSymlink != 0 {
		taken.What = p.Shown + " already exists and is a symbolic link"
		return taken
	}
	if !info.IsDir() {
		taken.What = p.Shown + " already exists and is not a directory"
		return taken
	}
	if n := countFiles(p.Dir); n > 0 {
		taken.What = fmt.Sprintf("%s already exists and is not empty (%s)", p.Shown, plural(n))
		return taken
	}
	return nil
}
