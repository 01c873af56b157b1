package addclient

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// notFound says where was looked for the callee, and which service was meant most likely.
func (a *addition) notFound(roots []string) error {
	e := &problem.Error{
		Exit: problem.NotFound,
		What: "no proto found for " + a.Name,
		At: fmt.Sprintf("looked for %s/*/*.proto in %s, beside this module for a service of that name, and in the modules of go.work and go.mod",
			a.name.Domain, strings.Join(a.allShown(roots), ", ")),
		Fix: fmt.Sprintf("newsvc add client %s --proto ../%s/proto", a.Name, a.Name),
	}
	if meant := nearest.Word(a.Name, a.others()); meant != "" {
		e.What += "; did you mean " + meant + "?"
		e.Fix = "newsvc add client " + meant
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
	return out
}
