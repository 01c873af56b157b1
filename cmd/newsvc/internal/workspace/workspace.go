// Package workspace says where a directory lies: in a checkout of the framework, in a workspace, in a service, in
// somebody else's module, or nowhere. It reads go.mod and newsvc.yaml on the way up, and nothing else.
package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// MarkerFile marks a directory as a service or as a workspace.
const MarkerFile = "newsvc.yaml"

// Kind is what surrounds a directory.
type Kind string

// Kinds of places.
const (
	Nothing   Kind = "nothing"   // no go.mod here or above
	Checkout  Kind = "checkout"  // the framework's own repository
	Workspace Kind = "workspace" // a module whose newsvc.yaml says kind: workspace
	Service   Kind = "service"   // a service with a module of its own
	Module    Kind = "module"    // a module that newsvc knows nothing of
)

// Place is where a directory lies.
type Place struct {
	Kind Kind
	Dir  string // the directory that was asked for, absolute
	// Root is the directory of the module, where go.mod is; of a workspace or service without a go.mod, that of its
	// newsvc.yaml; empty with Nothing.
	Root string
	// Module is what go.mod calls the module; empty without one.
	Module string
	// ServiceName and ServiceDir are the service that Dir is in, whatever the kind; empty outside of services.
	ServiceName string
	ServiceDir  string
}

// Find looks at dir, which may be relative, and above it. It stops at the first go.mod. The error is a [*problem.Error]
// about a newsvc.yaml that cannot be read.
func Find(dir string) (Place, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Place{}, err
	}
	p := Place{Kind: Nothing, Dir: dir}
	for at := dir; ; at = filepath.Dir(at) {
		m, ok, err := ReadMarker(at)
		if err != nil {
			return Place{}, err
		}
		if ok && m.Kind == string(Service) && p.ServiceDir == "" {
			p.ServiceName, p.ServiceDir = m.Name, at
		}
		isWorkspace := ok && m.Kind == string(Workspace)
		mod, isModule := moduleOf(at)
		if isModule || isWorkspace {
			p.Root, p.Module = at, mod
			p.Kind = p.kind(isWorkspace)
			return p, nil
		}
		if filepath.Dir(at) == at {
			break
		}
	}
	if p.ServiceDir != "" {
		p.Kind, p.Root = Service, p.ServiceDir
	}
	return p, nil
}

func (p Place) kind(isWorkspace bool) Kind {
	switch {
	case p.Module == buildinfo.Module:
		return Checkout
	case isWorkspace:
		return Workspace
	case p.ServiceDir == p.Root:
		return Service
	}
	return Module
}

// ServicesDir is where create puts services: examples/ in a checkout, services/ in a workspace, else Dir.
func (p Place) ServicesDir() string {
	switch p.Kind {
	case Checkout:
		return filepath.Join(p.Root, "examples")
	case Workspace:
		return filepath.Join(p.Root, "services")
	}
	return p.Dir
}

// ProtoDir is where the .proto files of the service in dir are: those of a workspace are all in proto/ at its root, any
// other service has its own, below its directory; examples that have none use those of the checkout.
func (p Place) ProtoDir(serviceDir string) string {
	if p.Kind == Workspace || serviceDir == "" {
		return filepath.Join(p.Root, "proto")
	}
	own := filepath.Join(serviceDir, "proto")
	if info, err := os.Stat(own); p.Kind == Checkout && (err != nil || !info.IsDir()) {
		return filepath.Join(p.Root, "proto")
	}
	return own
}

// Import is the import path of a directory at or below Root; empty when there is no module or it lies outside.
func (p Place) Import(dir string) string {
	rel, err := filepath.Rel(p.Root, dir)
	if err != nil || p.Module == "" || !filepath.IsLocal(rel) {
		return ""
	}
	return path.Join(p.Module, filepath.ToSlash(rel))
}

func moduleOf(dir string) (string, bool) {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", false
	}
	return modfile.ModulePath(text), true
}

// Marker is what newsvc.yaml says about its directory.
type Marker struct {
	Kind string `yaml:"kind"` // service or workspace
	Name string `yaml:"name"` // of a service
	Dev  struct {
		Replicas  *int `yaml:"replicas"`
		Exclusive bool `yaml:"exclusive"`
	} `yaml:"dev"`
}

// ReadMarker reads the newsvc.yaml of dir; false when there is none.
func ReadMarker(dir string) (Marker, bool, error) {
	name := filepath.Join(dir, MarkerFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) || err != nil && isDir(name) {
		return Marker{}, false, nil
	}
	var m Marker
	if err == nil {
		err = yaml.Unmarshal(text, &m)
	}
	if err == nil && m.Kind != string(Service) && m.Kind != string(Workspace) {
		err = fmt.Errorf("kind is %q, and has to be service or workspace", m.Kind)
	}
	if err != nil {
		return Marker{}, false, &problem.Error{
			Exit: problem.Environment, What: "cannot make sense of " + MarkerFile, At: fmt.Sprintf("%s: %v", name, err),
			Fix: "correct the file; of a service it begins with: kind: service", Err: err,
		}
	}
	return m, true, nil
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
