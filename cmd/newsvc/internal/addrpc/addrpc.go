// Package addrpc adds a method to a service: to its .proto file, by the syntax tree of that, and as two new files of Go
// code, a stub and its test. It edits no Go code that exists. Everything is worked out before anything is written, and
// written as one step.
package addrpc

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// Options say which method to add, and where.
type Options struct {
	Dir     string // absolute; anywhere in the service
	Name    string // of the method
	Service string // of the proto service, with or without its package; empty when there is only one
	Stream  string // none, server, client or bidi; empty means none
	DryRun  bool
}

// Change is one file, its path relative to Options.Dir.
type Change = changes.Told

// Result is what was done; no changes mean that all was there already.
type Result struct {
	Changes []Change `json:"changes"`
	DryRun  bool     `json:"dry_run,omitempty"`
}

// Run adds the method. A second run changes nothing. Errors are [*problem.Error], and leave the tree as it was.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.check(); err != nil {
		return Result{}, err
	}
	place, err := workspace.Find(o.Dir)
	if err != nil {
		return Result{}, err
	}
	project, err := generate.Find(o.Dir)
	if err != nil {
		return Result{}, err
	}
	a := &addition{Options: o, place: place, project: project, notes: map[string]string{}}
	if err := a.prepare(ctx); err != nil {
		return Result{}, err
	}
	res := Result{Changes: a.set.Tell(func(path string) string { return generate.Shown(o.Dir, path) }, a.notes), DryRun: o.DryRun}
	if o.DryRun {
		return res, nil
	}
	return res, generate.Apply(&a.set)
}

// addition is one run.
type addition struct {
	Options
	place   workspace.Place
	project *generate.Project
	set     changes.Set
	notes   map[string]string // by absolute path
}

// prepare plans all files, and writes none.
func (a *addition) prepare(ctx context.Context) error {
	compiled, err := a.project.Compile(ctx, a.Dir, nil)
	if err != nil {
		return err
	}
	t, err := a.target(compiled)
	if err != nil {
		return err
	}
	if m := t.method(a.Name); m != nil {
		if err := a.sameKind(compiled, t, m); err != nil {
			return err
		}
	} else if compiled, err = a.addToProto(ctx, compiled, t); err != nil {
		return err
	}
	outputs, err := compiled.Outputs(ctx)
	if err != nil {
		return err
	}
	if err := a.addStub(compiled, t); err != nil {
		return err
	}
	return generate.Stage(&a.set, outputs, a.Dir)
}

// addToProto plans the new .proto file and returns the project with it.
func (a *addition) addToProto(ctx context.Context, compiled *generate.Compiled, t target) (*generate.Compiled, error) {
	missing, err := a.missingMessages(compiled, t)
	if err != nil {
		return nil, err
	}
	name := compiled.Path(t.file.GetName())
	text, line, err := insert(name, compiled.Text(t.file.GetName()), t.service.GetName(), a.line(), missing)
	if err != nil {
		return nil, err
	}
	after, err := a.project.Compile(ctx, a.Dir, map[string][]byte{name: text})
	if err != nil {
		return nil, a.broken(err)
	}
	a.notes[name] = fmt.Sprintf("line %d: %s", line, strings.TrimSuffix(a.line(), ";"))
	if err := a.set.Write(name, text); err != nil {
		return nil, generate.Unwritable(a.Dir, name, err)
	}
	return after, nil
}

// broken is what is said of files that compile now and would not with the method: its name is the one of something else.
func (a *addition) broken(err error) error {
	var p *problem.Error
	if !errors.As(err, &p) {
		return err
	}
	return &problem.Error{
		Exit: problem.Conflict, What: fmt.Sprintf("with a method %s the .proto files would not compile any more; nothing is written", a.Name),
		At: p.At, Fix: "choose another name for the method", Err: err,
	}
}

// line is the method as it is written in the .proto file.
func (a *addition) line() string {
	in, out := a.Name+"Request", a.Name+"Response"
	if a.fromClient() {
		in = "stream " + in
	}
	if a.fromServer() {
		out = "stream " + out
	}
	return fmt.Sprintf("rpc %s(%s) returns (%s);", a.Name, in, out)
}

func (o Options) fromClient() bool { return o.Stream == "client" || o.Stream == "bidi" }
func (o Options) fromServer() bool { return o.Stream == "server" || o.Stream == "bidi" }

func kinds() []string { return []string{"none", "server", "client", "bidi"} }

func (o Options) check() error {
	if o.Stream != "" && !slices.Contains(kinds(), o.Stream) {
		return &problem.Error{
			Exit: problem.Usage,
			What: fmt.Sprintf("--stream %q is unknown: it is which side sends more than one message", o.Stream),
			Fix:  "newsvc add rpc " + o.Name + " --stream server      (or none, client, bidi)",
		}
	}
	if good := MethodName(o.Name); good != o.Name {
		why := "buf and Go want UpperCamelCase"
		if strings.EqualFold(good, o.Name) && good[:1] == o.Name[:1] {
			why = "in Go it would be another, " + good
		}
		return &problem.Error{
			Exit: problem.Usage,
			What: fmt.Sprintf("%q is not a method name: %s", o.Name, why),
			Fix:  "newsvc add rpc " + good,
		}
	}
	return nil
}

// shownInService is a path as the service's own code and messages call it: from the service's directory.
func (a *addition) shownInService(name string) string {
	dir := a.place.ServiceDir
	if dir == "" {
		dir = a.project.ModuleDir
	}
	rel, err := filepath.Rel(dir, name)
	if err != nil {
		return filepath.Base(name)
	}
	return filepath.ToSlash(rel)
}
