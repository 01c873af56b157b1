// Package generate brings the Go code of a project's .proto files up to date. It finds the project, hands the files
// to protogen, and writes what differs; it owns *.pb.go below proto/ and touches nothing else.
package generate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// Options say where and how.
type Options struct {
	Dir   string // absolute; anywhere in the project
	Check bool   // write nothing, and fail when something would be written
}

// Result lists generated files, as paths relative to Options.Dir with slashes.
type Result struct {
	Updated []string `json:"updated"` // written; with Check: out of date
	Same    int      `json:"same"`    // files that were up to date
}

// Run generates. A second run changes nothing. Errors are [*problem.Error]; with Check, files out of date are one of
// them and listed in the result too.
func Run(ctx context.Context, o Options) (Result, error) {
	root, goRoot, err := findProject(o.Dir)
	if err != nil {
		return Result{}, err
	}
	protos, err := readProtos(filepath.Join(root, "proto"))
	if err != nil {
		return Result{}, err
	}
	files, err := protogen.Generate(ctx, protogen.Input{Files: protos, GoRoot: goRoot})
	if err != nil {
		return Result{}, explain(err)
	}
	res := Result{Updated: []string{}}
	for _, f := range files {
		name := filepath.Join(root, "proto", filepath.FromSlash(f.Name))
		if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, f.Content) {
			res.Same++
			continue
		}
		if !o.Check {
			if err := replace(name, f.Content); err != nil {
				return res, &problem.Error{What: fmt.Sprintf("cannot write %s: %v", name, err), Fix: "make the directory writable", Err: err}
			}
		}
		shown, err := filepath.Rel(o.Dir, name)
		if err != nil {
			shown = name
		}
		res.Updated = append(res.Updated, filepath.ToSlash(shown))
	}
	if n := len(res.Updated); o.Check && n > 0 {
		return res, &problem.Error{
			Exit: problem.Conflict,
			What: fmt.Sprintf("%d generated files are out of date", n),
			At:   strings.Join(res.Updated, ", "),
			Fix:  "newsvc generate",
		}
	}
	return res, nil
}

// findProject returns the nearest directory at or above dir that has a proto directory, and the import path of that.
func findProject(dir string) (root, goRoot string, err error) {
	for at := dir; ; at = filepath.Dir(at) {
		if info, err := os.Stat(filepath.Join(at, "proto")); err == nil && info.IsDir() && root == "" {
			root = at
		}
		text, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && root == "" {
			break // a project has its .proto files below its own go.mod
		}
		if err == nil {
			rel, err := filepath.Rel(at, root)
			return root, path.Join(modfile.ModulePath(text), filepath.ToSlash(rel), "proto"), err
		}
		if filepath.Dir(at) == at {
			break
		}
	}
	return "", "", &problem.Error{
		Exit: problem.Usage,
		What: "no project with .proto files here",
		At:   fmt.Sprintf("looked for a directory proto in %s and above, up to a go.mod", dir),
		Fix:  "cd into a project, or start one: newsvc create blogger-user",
	}
}

func readProtos(dir string) (map[string][]byte, error) {
	dir, err := filepath.EvalSymlinks(dir) // WalkDir does not enter a link, not even its root
	if err != nil {
		return nil, err
	}
	protos := map[string][]byte{}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		protos[filepath.ToSlash(rel)], err = os.ReadFile(name)
		return err
	})
	if err == nil && len(protos) == 0 {
		err = &problem.Error{Exit: problem.Usage, What: "there are no .proto files to generate from", At: dir, Fix: "write one, for example proto/user/v1/service.proto"}
	}
	return protos, err
}

func explain(err error) error {
	var mistakes *protogen.CompileError
	if !errors.As(err, &mistakes) {
		return err
	}
	at := make([]string, len(mistakes.Problems))
	for i, p := range mistakes.Problems {
		at[i] = "proto/" + p
	}
	file, _, _ := strings.Cut(at[0], ":")
	return &problem.Error{What: file + " does not compile", At: strings.Join(at, "\n       "), Err: err}
}

// replace swaps the content of a file in one step: an editor or a build never sees half of it.
func replace(name string, content []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(name), ".newsvc-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
