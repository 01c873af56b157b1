// Package addclient makes one service a caller of another: one app.Client line in a marked list of main.go, the policy of
// its calls as a comment in config.yaml, and the callee's .proto when no Go import leads to its code. It changes no other
// line of anybody's code. Everything is worked out before anything is written, and written as one step.
package addclient

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// Options say who is to be called, and by whom.
type Options struct {
	Dir    string // absolute; anywhere in the calling service
	Name   string // of the callee
	Proto  string // directory of its .proto files, relative to Dir; empty lets newsvc look for it
	DryRun bool
}

// Change is one file, its path relative to Options.Dir.
type Change = changes.Told

// Result is what was done; no changes mean that all was there already.
type Result struct {
	Changes []Change `json:"changes"`
	// Import is the package of the callee's generated code, Client the type that constructors may ask for.
	Import string `json:"import,omitempty"`
	Client string `json:"client,omitempty"`
	// Paste are lines for main.go that newsvc did not write, because the marks of its list are gone.
	Paste []string `json:"paste,omitempty"`
	// Hint says what a build without go.work would need.
	Hint   string `json:"hint,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"`
}

// Run adds the client. A second run changes nothing. Errors are [*problem.Error], and leave the tree as it was.
func Run(ctx context.Context, o Options) (Result, error) {
	name, err := names.Parse(o.Name)
	if err != nil {
		return Result{}, &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "newsvc add client " + names.Suggest(o.Name), Err: err}
	}
	if dir, err := filepath.EvalSymlinks(o.Dir); err == nil { // paths are compared below
		o.Dir = dir
	}
	place, err := workspace.Find(o.Dir)
	if err != nil {
		return Result{}, err
	}
	switch {
	case place.ServiceDir == "" || place.Module == "":
		return Result{}, noService(o, place)
	case place.ServiceName == o.Name:
		return Result{}, &problem.Error{Exit: problem.Usage, What: o.Name + " is this service itself", At: place.ServiceDir, Fix: "newsvc add client NAME      (another service)"}
	}
	a := &addition{Options: o, name: name, place: place, notes: map[string]string{}}
	callee, err := a.prepare(ctx)
	res := Result{Changes: []Change{}, Import: callee.importPath, Client: callee.client(), Paste: a.paste, DryRun: o.DryRun}
	if err != nil {
		return res, err
	}
	if callee.work != "" {
		res.Hint = fmt.Sprintf("%s is found through %s; for builds without it: go mod edit -require=%[1]s@v0.0.0 -replace=%[1]s=%[3]s",
			callee.module, a.shown(callee.work), generate.Shown(place.Root, callee.root))
	}
	res.Changes = a.set.Tell(a.shown, a.notes)
	if o.DryRun {
		return res, nil
	}
	return res, generate.Apply(&a.set)
}

// addition is one run.
type addition struct {
	Options
	name  names.Name
	place workspace.Place
	set   changes.Set
	notes map[string]string // by absolute path
	paste []string
}

// prepare plans all files, and writes none.
func (a *addition) prepare(ctx context.Context) (callee, error) {
	c, err := a.find(ctx)
	if err != nil {
		return callee{}, err
	}
	c.alias = a.name.Stubs
	if version := filepath.Base(c.dir); version != "v1" { // the name knows of v1 only
		c.alias = a.name.Stubs[:len(a.name.Stubs)-2] + identifier(version)
	}
	if err := a.editMain(&c); err != nil {
		return c, err
	}
	return c, a.editConfig()
}

// shown is an absolute path as the user would type it.
func (a *addition) shown(name string) string { return generate.Shown(a.Dir, name) }

// write plans a file.
func (a *addition) write(name string, text []byte, note string) error {
	if err := a.set.Write(name, text); err != nil {
		return generate.Unwritable(a.Dir, name, err)
	}
	if note != "" {
		a.notes[name] = note
	}
	return nil
}

// callee is where the generated code of a service is.
type callee struct {
	service    string // Go name of the proto service: PostService
	dir        string // of the .proto file, absolute
	importPath string // of its Go code
	alias      string // what main.go calls it
	module     string // that its code is in, when that is another one, and the directory of that
	root       string
	work       string // the go.work without which a build does not find that module; empty when it does
}

// constructor is what app.Client takes.
func (c callee) constructor() string { return fmt.Sprintf("%s.New%sClient", c.alias, c.service) }

// client is what constructors of the service take.
func (c callee) client() string {
	if c.alias == "" {
		return ""
	}
	return fmt.Sprintf("%s.%sClient", c.alias, c.service)
}
