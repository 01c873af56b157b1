package workspace

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// Found is one service below a directory.
type Found struct {
	Name   string
	Dir    string // absolute
	Marker Marker
}

// Services returns the services at root and below, by name and then by directory. Directories that belong to tools, and those
// that only hold material, are passed over, and so are directories that may not be read.
func Services(root string) ([]Found, error) {
	root, err := filepath.EvalSymlinks(root) // WalkDir does not enter a link, not even its root
	if err != nil {
		return nil, err
	}
	var found []Found
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrPermission):
			return fs.SkipDir
		case err != nil:
			return err
		case d.IsDir() && name != root && skipped(d.Name()):
			return fs.SkipDir
		case d.IsDir() || d.Name() != MarkerFile:
			return nil
		}
		m, ok, err := ReadMarker(filepath.Dir(name))
		if err == nil && ok && m.Kind == string(Service) {
			found = append(found, Found{m.Name, filepath.Dir(name), m})
		}
		return err
	})
	slices.SortFunc(found, func(a, b Found) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Dir, b.Dir)
	})
	return found, err
}

func skipped(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") ||
		slices.Contains([]string{"node_modules", "vendor", "testdata", "templates"}, name)
}
