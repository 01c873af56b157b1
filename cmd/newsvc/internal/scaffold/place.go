package scaffold

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
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

// marker is what newsvc.yaml says about a directory.
type marker struct {
	Kind string `yaml:"kind"`
	Name string `yaml:"name"`
}

func readMarker(dir string) (marker, bool) {
	text, err := os.ReadFile(filepath.Join(dir, "newsvc.yaml"))
	if err != nil {
		return marker{}, false
	}
	var m marker
	return m, yaml.Unmarshal(text, &m) == nil
}

// notInService refuses a service inside another: their modules, tests and tools would step on each other.
func notInService(cwd string, name names.Name) error {
	up := ""
	for dir := cwd; ; dir = filepath.Dir(dir) {
		if m, ok := readMarker(dir); ok && m.Kind == "service" {
			return &problem.Error{
				Exit: problem.Usage,
				What: fmt.Sprintf("this directory is the service %s; a service is not created inside another", m.Name),
				At:   filepath.Join(dir, "newsvc.yaml"),
				Fix:  "cd " + up + ".. && newsvc create " + name.Service,
			}
		}
		if filepath.Dir(dir) == dir {
			return nil
		}
		up += "../"
	}
}

// otherDomain refuses a second service of one module with the same domain, such as user and user-service: their proto
// packages would have one name.
func otherDomain(p place, name names.Name) error {
	dirs, err := filepath.Glob(filepath.Join(filepath.Dir(p.Dir), "*", "newsvc.yaml"))
	if err != nil {
		return err
	}
	for _, file := range dirs {
		m, _ := readMarker(filepath.Dir(file))
		other, err := names.Parse(m.Name)
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
