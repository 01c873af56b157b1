package scaffold

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	protos "github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// foreignBuf says what buf's files, where they are somebody's own, keep from the API of a new service of a workspace. They stay
// as they are: what they are for is their author's business.
func foreignBuf(root string, s Spec) []string {
	if s.Kind == Gateway {
		return nil
	}
	var notes []string
	var refused *problem.Error
	if _, err := protos.Find(root); errors.As(err, &refused) && refused.At != "" {
		notes = append(notes, "newsvc generate and newsvc add refuse this workspace's buf.gen.yaml ("+strings.Join(strings.Fields(refused.At), " ")+
			"); take that out of it, or work with buf generate")
	}
	api := path.Join("proto", s.Name.Domain)
	if text, err := os.ReadFile(filepath.Join(root, "buf.yaml")); err == nil && !holds(text, api) {
		notes = append(notes, "buf.yaml has no module that holds "+api+"; add to its modules: - path: proto")
	}
	return notes
}

// holds reports whether a module of a buf.yaml holds the directory. One without modules is a module itself.
func holds(text []byte, dir string) bool {
	var file struct{ Modules []struct{ Path string } }
	if yaml.Unmarshal(text, &file) != nil || len(file.Modules) == 0 {
		return true
	}
	for _, m := range file.Modules {
		if p := path.Clean(m.Path); p == "." || p == dir || strings.HasPrefix(dir, p+"/") {
			return true
		}
	}
	return false
}
