package generate

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// Project is a tree of .proto files and what is said about their Go code. [Find] makes one; its methods change nothing
// on disk.
type Project struct {
	Root  string // absolute: the directory of buf.gen.yaml, and of the directory proto
	Proto string // absolute: the proto root, Root/proto
	// Module and ModuleDir are the Go module that Root is in.
	Module, ModuleDir string

	gomod   *modfile.File
	config  config
	modules []protoModule
}

// protoModule is one root of imports: a module of buf.yaml.
type protoModule struct {
	dir, name          string // absolute; name is empty for most
	includes, excludes []string
}

// Find returns the project around dir: the nearest directory at or above with a directory proto, up to a go.mod. Errors
// are [*problem.Error].
func Find(dir string) (*Project, error) {
	p := &Project{}
	for at := dir; ; at = filepath.Dir(at) {
		if info, err := os.Stat(filepath.Join(at, "proto")); err == nil && info.IsDir() && p.Root == "" {
			p.Root = at
		}
		text, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && p.Root == "" {
			break // a project has its .proto files below its own go.mod
		}
		if err == nil {
			return p, p.read(at, text)
		}
		if filepath.Dir(at) == at {
			break
		}
	}
	return nil, &problem.Error{
		Exit: problem.Usage,
		What: "no project with .proto files here",
		At:   fmt.Sprintf("looked for a directory proto in %s and above, up to a go.mod", dir),
		Fix:  "cd into a project, or start one: newsvc create blogger-user",
	}
}

// At is the project whose directory proto is, or will be, in root: at or below a go.mod.
func At(root string) (*Project, error) {
	for at := root; ; at = filepath.Dir(at) {
		if text, err := os.ReadFile(filepath.Join(at, "go.mod")); err == nil {
			p := &Project{Root: root}
			return p, p.read(at, text)
		}
		if filepath.Dir(at) == at {
			return nil, &problem.Error{Exit: problem.Usage, What: "no Go module here", At: "looked for go.mod in " + root + " and above", Fix: "go mod init example.com/NAME"}
		}
	}
}

func (p *Project) read(moduleDir string, gomod []byte) (err error) {
	p.ModuleDir, p.Proto = moduleDir, filepath.Join(p.Root, "proto")
	name := filepath.Join(moduleDir, "go.mod")
	if p.gomod, err = modfile.ParseLax(name, gomod, nil); err != nil || p.gomod.Module == nil {
		return &problem.Error{
			Exit: problem.Environment, What: "go.mod cannot be read", At: firstLine(errors.Join(err, errors.New(name+": no module line"))),
			Fix: "go mod edit -fmt      (shows what is wrong)", Err: err,
		}
	}
	p.Module = p.gomod.Module.Mod.Path
	if f, err := modfile.Parse(name, gomod, nil); err == nil { // the lax form knows no tools
		p.gomod = f
	}
	if p.config, err = readConfig(p.Root); err != nil {
		return err
	}
	p.modules, err = readModules(p.Root)
	return err
}

// ConfigFile is where the project's buf.gen.yaml is, or would be.
func (p *Project) ConfigFile() string { return filepath.Join(p.Root, configFile) }

// Configure takes text for what buf.gen.yaml says, before it is written.
func (p *Project) Configure(text []byte) (err error) {
	p.config, err = parseConfig(p.Root, text)
	return err
}

// ImportRoot is the Go import path of the proto root.
func (p *Project) ImportRoot() string {
	rel, err := filepath.Rel(p.ModuleDir, p.Proto)
	if err != nil {
		return p.Module
	}
	return path.Join(p.Module, filepath.ToSlash(rel))
}

// tree is what the compiler reads.
type tree struct {
	files   map[string][]byte // to be generated from, by import path
	imports map[string][]byte
	names   map[string]string // where a file is, by import path: relative to Project.Root, with slashes
	modules map[string]string // the buf module of a file, when that has a name
}

// load reads all .proto files, with those of overlay in place of what is on disk: by absolute path.
func (p *Project) load(overlay map[string][]byte) (tree, error) {
	t := tree{files: map[string][]byte{}, imports: map[string][]byte{}, names: map[string]string{}, modules: map[string]string{}}
	for _, m := range p.modules {
		texts, err := readProtos(m)
		if err != nil {
			return t, err
		}
		for name, text := range overlay {
			if rel, err := filepath.Rel(m.dir, name); err == nil && filepath.IsLocal(rel) {
				texts[filepath.ToSlash(rel)] = text
			}
		}
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			if bytes.HasPrefix(texts[name], []byte(exportHeader)) {
				continue // a copy for buf of what is built in, whose Go code is a module of its own
			}
			into := t.imports
			if p.config.generates(p.Root, filepath.Join(m.dir, filepath.FromSlash(name))) {
				into = t.files
			}
			into[name] = texts[name]
			if rel, err := filepath.Rel(p.Root, filepath.Join(m.dir, filepath.FromSlash(name))); err == nil {
				t.names[name] = filepath.ToSlash(rel)
			}
			t.modules[name] = m.name
		}
	}
	for name := range t.files {
		delete(t.imports, name)
	}
	if len(t.files) == 0 {
		return t, &problem.Error{
			Exit: problem.Usage, What: "there are no .proto files to generate from", At: p.Proto,
			Fix: "write one, for example proto/user/v1/service.proto",
		}
	}
	return t, nil
}

func readProtos(m protoModule) (map[string][]byte, error) {
	protos := map[string][]byte{}
	dir, err := filepath.EvalSymlinks(m.dir) // WalkDir does not enter a link, not even its root
	if errors.Is(err, fs.ErrNotExist) {
		return protos, nil
	}
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil || !m.holds(filepath.ToSlash(rel)) {
			return err
		}
		protos[filepath.ToSlash(rel)], err = os.ReadFile(name)
		return err
	})
	return protos, err
}

// holds says whether a file of the module's directory belongs to the module.
func (m protoModule) holds(name string) bool {
	in := func(dirs []string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") })
	}
	return (len(m.includes) == 0 || in(m.includes)) && !in(m.excludes)
}

// input is what protogen compiles.
func (p *Project) input(t tree) protogen.Input {
	in := protogen.Input{Files: t.files, Imports: t.imports, GoRoot: p.ImportRoot()}
	if p.config.found {
		in.Manage = p.config.manage(t)
	}
	return in
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
