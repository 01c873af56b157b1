package generate

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// sourceLine is how the two Go plugins say what they read.
var sourceLine = regexp.MustCompile(`(?m)^// source: (\S+\.proto)\r?$`)

// orphans returns generated files whose source is gone: the .proto file, or its last service. They would not build for
// long, but they may have been kept on purpose: they are reported, never deleted.
func (p *Project) orphans(outputs []Output) []string {
	written := map[string]bool{}
	for _, f := range outputs {
		written[f.Path] = true
	}
	var found []string
	for _, m := range p.modules {
		_ = filepath.WalkDir(m.dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".pb.go") || written[name] || !p.config.generates(p.Root, name) {
				return nil //nolint:nilerr // what cannot be read was reported by load
			}
			rel, err := filepath.Rel(m.dir, name)
			if err != nil {
				return nil //nolint:nilerr // no file of ours
			}
			text, err := os.ReadFile(name)
			if err != nil || !header.Match(text) {
				return nil //nolint:nilerr // no file of ours
			}
			source := sourceLine.FindSubmatch(text)
			base := strings.TrimSuffix(strings.TrimSuffix(filepath.ToSlash(rel), ".pb.go"), "_grpc")
			if source != nil && string(source[1]) == base+".proto" && !slices.Contains(found, name) {
				found = append(found, name)
			}
			return nil
		})
	}
	return found
}
