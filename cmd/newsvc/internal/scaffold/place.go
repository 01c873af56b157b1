package scaffold

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// countFiles counts what is in dir and below; an empty directory in it counts too.
func countFiles(dir string) int {
	n, dirs := 0, -1
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			n++
		default:
			dirs++
		}
		return nil
	})
	if n == 0 {
		return dirs
	}
	return n
}

func plural(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

// place is where the project goes.
type place struct {
	workspace.Place
	To    string // the project's directory, absolute
	Shown string // as the user would type it
}

// findPlace decides by what surrounds the current directory, and refuses a place that is taken.
func (o Options) findPlace(name names.Name) (place, error) {
	around, err := workspace.Find(o.Cwd)
	if err != nil {
		return place{}, err
	}
	p := place{Place: around, To: filepath.Join(around.ServicesDir(), name.Service)}
	rel, err := filepath.Rel(o.Cwd, p.To)
	if err != nil {
		return place{}, err
	}
	p.Shown = show(o.From, rel)
	if p.ServiceDir != "" {
		return place{}, insideService(p, name)
	}
	if p.Kind == workspace.Checkout || p.Kind == workspace.Workspace {
		if err := p.beside(name); err != nil {
			return place{}, err
		}
	}
	return p, vacant(p, name)
}

// show is a path below from as the user would type it.
func show(from, rel string) string {
	p := filepath.ToSlash(filepath.Join(from, rel))
	if filepath.IsAbs(p) || p == ".." || strings.HasPrefix(p, "../") {
		return p
	}
	return "./" + p
}

// insideService refuses a service inside another: their modules, tests and tools would step on each other.
func insideService(p place, name names.Name) error {
	up, err := filepath.Rel(p.Dir, filepath.Dir(p.ServiceDir))
	if err != nil {
		return err
	}
	fix := "cd " + filepath.ToSlash(up) + " && newsvc create " + name.Service
	if p.Kind == workspace.Service {
		fix += "      or start a workspace, a directory for several services: newsvc init"
	}
	return &problem.Error{
		Exit: problem.Usage,
		What: fmt.Sprintf("this directory is the service %s; a service is not created inside another", p.ServiceName),
		At:   filepath.Join(p.ServiceDir, workspace.MarkerFile),
		Fix:  fix,
	}
}

// beside refuses what the other services of a module leave no room for: a second service of one name, and one with
// the same domain, such as user and user-service, whose proto packages would have one name.
func (p place) beside(name names.Name) error {
	found, err := p.services()
	if err != nil {
		return err
	}
	for _, f := range found {
		file := filepath.Join(f.Dir, workspace.MarkerFile)
		if f.Name == name.Service && (p.Kind == workspace.Workspace || f.Dir != p.To) {
			return &problem.Error{
				Exit: problem.Conflict, What: "the workspace already has a service named " + f.Name, At: file,
				Fix: "newsvc create " + names.Suggest(name.Service+"-2"),
			}
		}
		other, err := names.Parse(f.Name)
		if err != nil || other.Domain != name.Domain || other.Service == name.Service {
			continue
		}
		return &problem.Error{
			Exit: problem.Conflict,
			What: fmt.Sprintf("%q and the existing service %q would both own the proto package %s", name.Service, other.Service, name.ProtoPackage),
			At:   file,
			Fix:  "newsvc create " + names.Suggest(strings.TrimSuffix(name.Service, "-service")+"-api"),
		}
	}
	return nil
}

// services are those that share the module.
func (p place) services() ([]workspace.Found, error) {
	root := p.Root
	if p.Kind == workspace.Checkout {
		root = p.ServicesDir()
	}
	found, err := workspace.Services(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return found, err
}

func vacant(p place, name names.Name) error {
	info, err := os.Lstat(p.To) // a link is somebody's, wherever it leads
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return &problem.Error{What: fmt.Sprintf("cannot look at %s: %v", p.Shown, rootCause(err)), Fix: "choose another directory with -C DIR", Err: err}
	}
	var free string
	for n := 2; ; n++ {
		free = fmt.Sprintf("%s-%d", name.Service, n)
		if _, err := os.Lstat(filepath.Join(filepath.Dir(p.To), free)); os.IsNotExist(err) {
			break
		}
	}
	taken := &problem.Error{Exit: problem.Conflict, Fix: "newsvc create " + names.Suggest(free) + "      or choose another directory: -C DIR"}
	switch n := countFiles(p.To); {
	case info.Mode()&os.ModeSymlink != 0:
		taken.What = p.Shown + " already exists and is a symbolic link"
	case !info.IsDir():
		taken.What = p.Shown + " already exists and is not a directory"
	case n > 0:
		taken.What = fmt.Sprintf("%s already exists and is not empty (%s)", p.Shown, plural(n))
	default:
		return nil
	}
	return taken
}

// rootCause is the last error of a chain: without the paths and calls that led to it.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
