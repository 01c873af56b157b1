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
// long, but they may have been kept on purpose: they are reported, never deleted. They are looked for where .proto files
// are and where plugins write.
func (p *Project) orphans(outputs []Output) []string {
	written := map[string]bool{}
	for _, f := range outputs {
		written[f.Path] = true
	}
	var dirs, found []string
	for _, m := range p.modules {
		dirs = append(dirs, m.dir)
	}
	for _, pl := range p.config.plugins {
		if dir := filepath.Join(p.Root, filepath.FromSlash(pl.out)); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		for _, rel := range generatedFiles(dir) {
			source := strings.TrimSuffix(strings.TrimSuffix(rel, ".pb.go"), "_grpc") + ".proto"
			name := filepath.Join(dir, filepath.FromSlash(rel))
			if !written[name] && !slices.Contains(found, name) && p.lost(name, source) {
				found = append(found, name)
			}
		}
	}
	return found
}

// lost says whether a generated file is one of this project's whose source is gone: it carries the header, it lies where
// its source would have it, and no module outside the inputs still has that.
func (p *Project) lost(name, source string) bool {
	text, err := os.ReadFile(name)
	if err != nil || !header.Match(text) {
		return false
	}
	if m := sourceLine.FindSubmatch(text); m == nil || string(m[1]) != source {
		return false
	}
	for _, m := range p.modules {
		file := filepath.Join(m.dir, filepath.FromSlash(source))
		if _, err := os.Stat(file); err == nil {
			return p.config.generates(p.Root, file)
		}
		if rel, err := filepath.Rel(m.dir, name); err == nil && filepath.IsLocal(rel) {
			return p.config.generates(p.Root, name)
		}
	}
	return true
}

// generatedFiles returns the names below dir that end in .pb.go, with slashes. dir may be a link: WalkDir does not enter
// one by itself. What cannot be read was reported by load.
func generatedFiles(dir string) []string {
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	var all []string
	_ = filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // see above
		case d.IsDir() && name != top && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".pb.go"):
			return nil
		}
		if rel, err := filepath.Rel(top, name); err == nil {
			all = append(all, filepath.ToSlash(rel))
		}
		return nil
	})
	return all
}
