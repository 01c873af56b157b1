package call

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// FromFiles reads the methods of a callee from the .proto files in dir and below. Of several proto packages the one counts
// that has the callee's name, if there is one. The error is a [*problem.Error] about the files.
func FromFiles(ctx context.Context, callee, dir string) (*Methods, error) {
	in := protogen.Input{Files: map[string][]byte{}, GoRoot: "example.com/proto"}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		in.Files[filepath.ToSlash(rel)], err = os.ReadFile(name)
		return err
	})
	if err != nil || len(in.Files) == 0 {
		p := &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("there is no .proto file in %s", dir), Fix: "--proto DIR, the directory that imports are relative to", Err: err}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.At = err.Error()
		}
		return nil, p
	}
	req, err := protogen.Request(ctx, in)
	if err != nil {
		return nil, &problem.Error{Exit: problem.Usage, What: "the .proto files in " + dir + " do not compile", At: err.Error(), Fix: "--proto DIR, the directory that imports are relative to", Err: err}
	}
	m := &Methods{}
	if m.files, err = protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: req.GetProtoFile()}); err != nil {
		return nil, err
	}
	m.choose(callee, req.GetFileToGenerate())
	return m, nil
}

// choose makes the services of these files those of the callee.
func (m *Methods) choose(callee string, files []string) {
	prefix := ""
	if n, err := names.Parse(callee); err == nil {
		prefix = n.Domain + "."
	}
	own := &Methods{}
	for _, name := range files {
		f, err := m.files.FindFileByPath(name)
		if err != nil {
			continue
		}
		for n := range f.Services().Len() {
			s := f.Services().Get(n).FullName()
			m.Services = append(m.Services, s)
			if prefix != "" && strings.HasPrefix(string(s), prefix) {
				own.Services = append(own.Services, s)
			}
		}
	}
	if len(own.Services) > 0 {
		m.Services = own.Services
	}
	slices.Sort(m.Services)
}

// Nearby reads the methods of a callee from the project around dir; nil when it has none of that callee.
func Nearby(ctx context.Context, callee, dir string) *Methods {
	ws, err := workspace.Find(dir)
	if err != nil || ws.Kind == workspace.Nothing {
		return nil
	}
	n, err := names.Parse(callee)
	if err != nil {
		return nil
	}
	for _, root := range []string{ws.ProtoDir(ws.ServiceDir), filepath.Join(ws.Root, "proto")} {
		m, err := FromFiles(ctx, callee, root)
		if err != nil {
			continue
		}
		if len(m.Services) > 0 && strings.HasPrefix(string(m.Services[0]), n.Domain+".") {
			return m
		}
	}
	return nil
}
