// Package generate brings the Go code of a project's .proto files up to date. It finds the project, reads the same
// buf.gen.yaml as buf, hands the files to protogen or to the plugins that the project pins, and writes what differs. It
// owns what carries the header of generated code, and touches nothing else.
package generate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/pluginpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/changes"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// Options say where and how.
type Options struct {
	Dir    string   // absolute; anywhere in the project
	Paths  []string // .proto files and directories to generate from, relative to Dir; empty means all
	Check  bool     // write nothing, and fail when something would be written
	DryRun bool     // write nothing
}

// Result lists generated files, as paths relative to Options.Dir with slashes.
type Result struct {
	Updated []string `json:"updated"`           // written; with Check and DryRun: to be written
	Same    int      `json:"same"`              // files that were up to date
	Orphans []string `json:"orphans,omitempty"` // generated from something that is no longer there; never deleted
	Edited  []string `json:"edited,omitempty"`  // without the header of generated code, so not written over
	Hint    string   `json:"hint,omitempty"`    // of Export: what the user has to do for buf
}

// Output is one generated file: what is to be at an absolute path.
type Output struct {
	Path    string
	Content []byte
}

// header marks a generated file, see https://go.dev/s/generatedcode.
var header = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.\r?$`)

// Run generates. Either all files are written or none. A second run changes nothing. Errors are [*problem.Error]; with
// Check, files out of date are one of them and listed in the result too, and whatever else keeps it from telling ends
// with [problem.Environment].
func Run(ctx context.Context, o Options) (Result, error) {
	res, err := run(ctx, o)
	var p *problem.Error
	if o.Check && errors.As(err, &p) && p.ExitCode() != problem.Usage && len(res.Updated)+len(res.Orphans)+len(res.Edited) == 0 {
		c := *p
		c.Exit = problem.Environment
		return res, &c
	}
	return res, err
}

func run(ctx context.Context, o Options) (Result, error) {
	p, err := Find(o.Dir)
	if err != nil {
		return Result{}, err
	}
	c, err := p.compile(ctx, o.Dir, nil, o.Paths)
	if err != nil {
		return Result{}, err
	}
	outputs, err := c.Outputs(ctx)
	if err != nil {
		return Result{}, err
	}
	var set changes.Set
	res := Result{Updated: []string{}}
	if res.Edited, err = stage(&set, outputs, o.Dir); err != nil {
		return res, err
	}
	res.list(&set, o.Dir)
	if len(o.Paths) == 0 {
		for _, name := range p.orphans(outputs) {
			res.Orphans = append(res.Orphans, Shown(o.Dir, name))
		}
	}
	switch {
	case len(res.Edited) > 0:
		return res, edited(res.Edited)
	case o.Check && len(res.Updated)+len(res.Orphans) > 0:
		return res, stale(res)
	case o.Check || o.DryRun:
		return res, nil
	}
	return res, Apply(&set)
}

// list notes what the set would do.
func (r *Result) list(set *changes.Set, dir string) {
	for _, c := range set.Plan() {
		if c.Action == changes.Same {
			r.Same++
		} else {
			r.Updated = append(r.Updated, Shown(dir, c.Path))
		}
	}
}

// Apply writes the set; what goes wrong is a [*problem.Error].
func Apply(set *changes.Set) error {
	err := set.Apply()
	if err == nil {
		return nil
	}
	p := &problem.Error{What: "nothing is written: " + firstLine(err), Fix: "make the directory writable, or room on its disk, then run it again", Err: err}
	if errors.Is(err, changes.ErrChanged) {
		p.Fix = "run it again"
	}
	return p
}

// Stage plans outputs in set. A file that somebody edited is a [*problem.Error].
func Stage(set *changes.Set, outputs []Output, dir string) error {
	names, err := stage(set, outputs, dir)
	if err == nil && len(names) > 0 {
		err = edited(names)
	}
	return err
}

// Compiled is a project's .proto files, understood: from here on only plugins can fail.
type Compiled struct {
	// Request is what a plugin reads, all files that are generated from included.
	Request *pluginpb.CodeGeneratorRequest

	project *Project
	tree    tree
	dir     string
}

// Compile reads all .proto files of the project, with the texts of overlay in place of what the disk holds: by absolute
// path. dir is what paths in messages are relative to. Mistakes in the files are a [*problem.Error].
func (p *Project) Compile(ctx context.Context, dir string, overlay map[string][]byte) (*Compiled, error) {
	return p.compile(ctx, dir, overlay, nil)
}

func (p *Project) compile(ctx context.Context, dir string, overlay map[string][]byte, paths []string) (*Compiled, error) {
	t, err := p.load(overlay)
	if err != nil {
		return nil, err
	}
	if left := p.config.managed.foreign(t); len(left) > 0 {
		return nil, refusal([]string{fmt.Sprintf("%s:%d: managed.enabled: without a managed.disable entry for each, buf sets %s",
			configFile, p.config.managed.line, strings.Join(left, ", "))})
	}
	in := p.input(t)
	if in.Only, err = t.chosen(p.Root, dir, paths); err != nil {
		return nil, err
	}
	req, err := protogen.Request(ctx, in)
	if err != nil {
		return nil, p.explain(err, t, dir)
	}
	return &Compiled{Request: req, project: p, tree: t, dir: dir}, nil
}

// Path is where the .proto file is, given by what other files import it as; empty for one that is not the project's.
func (c *Compiled) Path(file string) string {
	name, ours := c.tree.names[file]
	if !ours {
		return ""
	}
	return filepath.Join(c.project.Root, filepath.FromSlash(name))
}

// Text is what was compiled.
func (c *Compiled) Text(file string) []byte {
	if text, ok := c.tree.files[file]; ok {
		return text
	}
	return c.tree.imports[file]
}

// Outputs returns the Go code, and what else the project's plugins write.
func (c *Compiled) Outputs(ctx context.Context) ([]Output, error) {
	outputs, err := c.project.outputs(ctx, c.Request)
	if err != nil {
		return nil, c.project.explain(err, c.tree, c.dir)
	}
	return outputs, nil
}

// outputs runs all plugins.
func (p *Project) outputs(ctx context.Context, req *pluginpb.CodeGeneratorRequest) ([]Output, error) {
	byDir := map[string][]protogen.File{}
	for _, pl := range p.config.plugins {
		files, err := p.run(ctx, pl, req)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(p.Root, filepath.FromSlash(pl.out))
		byDir[dir] = append(byDir[dir], files...)
	}
	var outputs []Output
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		files, err := protogen.Merge(byDir[dir])
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			outputs = append(outputs, Output{filepath.Join(dir, filepath.FromSlash(f.Name)), f.Content})
		}
	}
	return outputs, nil
}

// chosen returns the files that paths select, by import path; nil when there are no paths.
func (t tree) chosen(root, dir string, paths []string) ([]string, error) {
	var only []string
	for _, name := range paths {
		at := name
		if !filepath.IsAbs(at) {
			at = filepath.Join(dir, filepath.FromSlash(name))
		}
		n := len(only)
		for file := range t.files {
			rel, err := filepath.Rel(at, filepath.Join(root, filepath.FromSlash(t.names[file])))
			if err == nil && filepath.IsLocal(rel) && !slices.Contains(only, file) {
				only = append(only, file)
			}
		}
		if _, err := os.Stat(at); len(only) == n && (err != nil || len(paths) == 1) {
			return nil, &problem.Error{
				Exit: problem.Usage, What: fmt.Sprintf("there is no .proto file of this project at %q", name), At: at,
				Fix: "newsvc generate      (all files), or name a file or a directory below proto/",
			}
		}
	}
	slices.Sort(only)
	return only, nil
}

// stage plans the files that may be written, and returns those that somebody made or edited.
func stage(set *changes.Set, outputs []Output, dir string) (theirs []string, err error) {
	for _, f := range outputs {
		old, err := set.Read(f.Path)
		if err == nil && commented(f.Path) && !bytes.Equal(old, f.Content) && !header.Match(old) {
			theirs = append(theirs, Shown(dir, f.Path))
			continue
		}
		if err := set.Write(f.Path, f.Content); err != nil {
			return nil, Unwritable(dir, f.Path, err)
		}
	}
	return theirs, nil
}

// Unwritable says why a file cannot be planned in a set.
func Unwritable(dir, name string, err error) error {
	why := firstLine(err)
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		why = p.Err.Error() // the path is told as the user would type it
	}
	return &problem.Error{What: "cannot write " + Shown(dir, name) + ": " + why, Fix: "make it a file that can be written, then run it again", Err: err}
}

// commented says whether a generated file of this kind carries the header: JSON, for one, cannot.
func commented(name string) bool {
	return slices.Contains([]string{".go", ".proto"}, filepath.Ext(name))
}

func edited(names []string) error {
	return &problem.Error{
		Exit: problem.Conflict,
		What: fmt.Sprintf("%s is in the way: it has no line \"Code generated ... DO NOT EDIT.\", so it is somebody's own; nothing is written", names[0]),
		At:   strings.Join(names, "\n       "),
		Fix:  "move it to another name, then: newsvc generate",
	}
}

func stale(res Result) error {
	p := &problem.Error{
		Exit: problem.Conflict,
		What: fmt.Sprintf("%d generated files are out of date", len(res.Updated)),
		At:   strings.Join(slices.Concat(res.Updated, res.Orphans), ", "),
		Fix:  "newsvc generate",
	}
	if n := len(res.Updated); n == 1 {
		p.What = "1 generated file is out of date"
	}
	if n := len(res.Orphans); n > 0 {
		p.What = fmt.Sprintf("%d generated files are out of date, %d have lost their source", len(res.Updated), n)
		p.Fix = "newsvc generate && rm " + strings.Join(res.Orphans, " ")
	}
	return p
}

// explain turns mistakes in .proto files into a problem that names the files as the user sees them.
func (p *Project) explain(err error, t tree, dir string) error {
	var mistakes *protogen.CompileError
	if !errors.As(err, &mistakes) {
		return err
	}
	at := make([]string, len(mistakes.Problems))
	for i, text := range mistakes.Problems {
		file, rest, _ := strings.Cut(text, ":")
		name, ours := t.names[file]
		if !ours {
			name = "proto/" + file
		}
		at[i] = Shown(dir, filepath.Join(p.Root, filepath.FromSlash(name))) + ":" + rest
	}
	file, _, _ := strings.Cut(at[0], ":")
	e := &problem.Error{What: file + " does not compile", At: strings.Join(at, "\n       "), Fix: "mend the line, then: newsvc generate", Err: err}
	if strings.Contains(at[0], "it has no go_package") {
		e.What = file + " gets no Go package"
		e.Fix = fmt.Sprintf("add to managed.override in %s: - {file_option: %s, value: %s}", configFile, goPackagePrefixOption, p.ImportRoot())
	}
	return e
}

// Shown is an absolute path as a user in dir would type it.
func Shown(dir, name string) string {
	rel, err := filepath.Rel(dir, name)
	if err != nil {
		return filepath.ToSlash(name)
	}
	return filepath.ToSlash(rel)
}
