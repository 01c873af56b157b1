package scaffold

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// File is one file of a project; Path has slashes and is relative to its root.
type File struct {
	Path    string
	Content []byte
}

// Render returns the files of a new service, sorted by path. Paths are relative to the project's directory; in a
// workspace, where the API is apart from it, to that of the workspace.
func Render(ctx context.Context, s Spec) ([]File, error) {
	v, sum, err := s.view()
	if err != nil {
		return nil, err
	}
	files, err := s.tree(v)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Path, ".pb.go") || f.Path == "go.sum" || strings.HasPrefix(f.Path, ".newsvc/") && f.Path != ".newsvc/.gitignore" {
			return nil, fmt.Errorf("%s is written by newsvc and cannot be in a template", f.Path)
		}
	}
	generated, err := generate(ctx, files, s.ProtoImport())
	if err != nil {
		return nil, err
	}
	files = append(files, generated...)
	for i, f := range files {
		files[i].Path = s.at(f.Path)
	}
	notGenerated := slices.DeleteFunc(slices.Clone(files), func(f File) bool { return strings.HasSuffix(f.Path, ".pb.go") })
	dir := s.at("")
	base, err := pristine(dir, notGenerated)
	if err != nil {
		return nil, err
	}
	files = append(files, base)
	if s.Home() == "" {
		files = append(files, File{"go.sum", sum})
	}
	about, err := record{
		Template: s.kind(), Newsvc: s.CLI, Name: s.Name.Service, Module: s.Module, InRepo: s.InRepo, Within: dir, Overlay: s.Overlay != nil,
	}.about(dir, files)
	if err != nil {
		return nil, err
	}
	return sorted(append(files, about)), nil
}

func sorted(files []File) []File {
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// at is where a file of the project is, as [Render] lists it.
func (s Spec) at(p string) string {
	if !s.InWorkspace || strings.HasPrefix(p, "proto/") {
		return p
	}
	return path.Join(s.Home(), p)
}

// generate returns the Go code of all .proto files.
func generate(ctx context.Context, files []File, goRoot string) ([]File, error) {
	in := protogen.Input{Files: map[string][]byte{}, GoRoot: goRoot}
	for _, f := range files {
		if p, ok := strings.CutPrefix(f.Path, "proto/"); ok && strings.HasSuffix(p, ".proto") {
			in.Files[p] = f.Content
		}
	}
	if len(in.Files) == 0 {
		return nil, nil
	}
	code, err := protogen.Generate(ctx, in)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, f := range code {
		out = append(out, File{"proto/" + f.Name, f.Content})
	}
	return out, nil
}
