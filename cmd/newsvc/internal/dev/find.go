package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/framework/discovery"
)

// markerFile marks a directory as a service.
const markerFile = "newsvc.yaml"

// service is one service that was found.
type service struct {
	name      string
	dir       string // absolute
	replicas  int
	exclusive bool     // no two processes of it at a time
	run       []string // commands that it needs
}

// marker is what this command reads of newsvc.yaml; the file has more.
type marker struct {
	Kind string `yaml:"kind"`
	Name string `yaml:"name"`
	Dev  struct {
		Replicas  *int     `yaml:"replicas"`
		Exclusive bool     `yaml:"exclusive"`
		Run       []string `yaml:"run"`
	} `yaml:"dev"`
}

// find returns the services at or below root, by name. Directories that belong to tools, and those that only hold
// examples of broken projects, are passed over.
func find(root string) ([]service, error) {
	root, err := filepath.EvalSymlinks(root) // WalkDir does not enter a link, not even its root
	if err != nil {
		return nil, err
	}
	var found []service
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return fs.SkipDir // what we may not read is no service of ours
			}
			return err
		}
		if d.IsDir() {
			if path != root && skipped(d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if d.Name() != markerFile {
			return nil
		}
		s, ok, err := readMarker(path)
		if err == nil && ok {
			found = append(found, s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b service) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(found); i++ {
		if found[i].name == found[i-1].name {
			return nil, fmt.Errorf("two services are named %q: %s and %s; rename one", found[i].name, found[i-1].dir, found[i].dir)
		}
	}
	return found, nil
}

func skipped(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") ||
		slices.Contains([]string{"node_modules", "vendor", "testdata", "templates"}, name)
}

func readMarker(path string) (service, bool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return service{}, false, err
	}
	var m marker
	if err := yaml.Unmarshal(raw, &m); err != nil {
		return service{}, false, fmt.Errorf("%s: %w", path, err)
	}
	if m.Kind != "service" {
		return service{}, false, nil
	}
	if err := discovery.CheckService(m.Name); err != nil {
		return service{}, false, fmt.Errorf("%s: name: %w", path, err)
	}
	s := service{name: m.Name, dir: filepath.Dir(path), replicas: 1, exclusive: m.Dev.Exclusive, run: m.Dev.Run}
	if m.Dev.Replicas != nil {
		s.replicas = *m.Dev.Replicas
	}
	if s.replicas < 0 || s.replicas > maxReplicas {
		return service{}, false, fmt.Errorf("%s: dev.replicas: %d is not between 0 and %d", path, s.replicas, maxReplicas)
	}
	if slices.ContainsFunc(s.run, func(line string) bool { return strings.TrimSpace(line) == "" }) {
		return service{}, false, fmt.Errorf("%s: dev.run: a command is empty; write for example [\"docker run --rm -p 5432:5432 postgres\"]", path)
	}
	return s, true, nil
}
