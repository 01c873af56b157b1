package generate

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// readModules returns the roots of imports that buf.yaml names. Without that file there is one: proto. The rest of
// buf.yaml is about linting and about registries, which newsvc does not ask.
func readModules(root string) ([]protoModule, error) {
	standard := []protoModule{{dir: filepath.Join(root, "proto")}}
	text, err := os.ReadFile(filepath.Join(root, "buf.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return standard, nil
	}
	if err != nil {
		return nil, err
	}
	var file struct {
		Version string `yaml:"version"`
		Modules []struct {
			Path     string   `yaml:"path"`
			Name     string   `yaml:"name"`
			Includes []string `yaml:"includes"`
			Excludes []string `yaml:"excludes"`
		} `yaml:"modules"`
	}
	err = yaml.Unmarshal(text, &file)
	if err == nil && file.Version != "v2" {
		err = errors.New("its version is " + file.Version)
	}
	if err != nil {
		return nil, &problem.Error{
			Exit: problem.Conflict, What: "buf.yaml cannot be read: newsvc reads version v2", At: filepath.Join(root, "buf.yaml") + ": " + firstLine(err),
			Fix: "buf config migrate", Err: err,
		}
	}
	var out []protoModule
	for _, m := range file.Modules {
		dir := filepath.Join(root, filepath.FromSlash(m.Path))
		within := func(paths []string) (list []string) {
			for _, p := range paths {
				if rel, err := filepath.Rel(dir, filepath.Join(root, filepath.FromSlash(p))); err == nil && filepath.IsLocal(rel) {
					list = append(list, strings.TrimSuffix(filepath.ToSlash(rel), "/"))
				}
			}
			return list
		}
		out = append(out, protoModule{dir: dir, name: m.Name, includes: within(m.Includes), excludes: within(m.Excludes)})
	}
	if len(out) == 0 {
		return standard, nil
	}
	return out, nil
}
