package addclient

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// notFound says where was looked for the callee, and which service was meant most likely.
func (a *addition) notFound(roots []string) error {
	e := &problem.Error{
		Exit: problem.NotFound,
		What: "no proto found for " + a.Name,
		At: fmt.Sprintf("looked for %s/*/*.proto in %s, beside this module for a service of that name, and in the modules of go.work and go.mod but the framework",
			a.name.Domain, strings.Join(a.allShown(roots), ", ")),
		Fix: fmt.Sprintf("newsvc add client %s --proto ../%s/proto", a.Name, a.Name),
	}
	others := a.others()
	if len(others) > 0 {
		e.At += "\n       services here: " + strings.Join(others, ", ")
	}
	if meant := nearest.Word(a.Name, others); meant != "" {
		e.What += "; did you mean " + meant + "?"
		e.Fix = "newsvc add client " + meant
	} else if services, err := workspace.Services(a.place.Root); err == nil && slices.ContainsFunc(services, func(s workspace.Found) bool { return s.Name == a.Name }) {
		e.What = a.Name + " has no .proto file: it serves HTTP alone, as a gateway does, or its API is elsewhere"
		e.Fix = "newsvc add client " + a.Name + " --proto DIR      (where its .proto files are)"
	}
	return e
}

// noService says that nobody here could call, and who in the workspace around it could.
func noService(o Options, p workspace.Place) error {
	e := &problem.Error{
		Exit: problem.Usage, What: "this directory is in no service, so nobody here could call " + o.Name,
		At: "looked for " + workspace.MarkerFile + " in " + o.Dir + " and above", Fix: "newsvc add client " + o.Name + " -C DIR      (the directory of the caller)",
	}
	services, err := workspace.Services(p.Root)
	if p.Kind != workspace.Workspace || err != nil {
		return e
	}
	var names []string
	for _, s := range slices.Backward(services) {
		if s.Name == o.Name {
			continue
		}
		names = append(names, s.Name)
		e.Fix = "newsvc add client " + o.Name + " -C " + generate.Shown(o.Dir, s.Dir)
	}
	if len(names) > 0 {
		slices.Sort(names)
		e.What = "this is the workspace, and no service of it, so nobody here could call " + o.Name
		e.At = "who could: " + strings.Join(names, ", ")
	}
	return e
}

// others are the names of the services that a person here may have meant: of this module, and beside it.
func (a *addition) others() []string {
	var out []string
	add := func(name string) {
		if name != "" && name != a.Name && name != a.place.ServiceName {
			out = append(out, name)
		}
	}
	services, err := workspace.Services(a.place.Root)
	if err != nil {
		return nil // a near miss is a courtesy; the error that it belongs to is told without it
	}
	for _, s := range services {
		add(s.Name)
	}
	beside, _ := filepath.Glob(filepath.Join(filepath.Dir(a.place.Root), "*", workspace.MarkerFile))
	for _, file := range beside {
		if m, ok, err := workspace.ReadMarker(filepath.Dir(file)); err == nil && ok && m.Kind == string(workspace.Service) {
			add(m.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
