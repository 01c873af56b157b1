package addrpc

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// Unwritten is a method of a .proto file that nobody has written in Go. The type that implements the service has it all the
// same, from the generated Unimplemented...Server: it builds, and every call ends with UNIMPLEMENTED. So it is after a
// method was renamed in the .proto file.
type Unwritten struct {
	Service string   // full name of the proto service
	Method  string   // as the .proto file has it
	Type    string   // of the implementation
	At      string   // file:line:column of the method, as of the directory that was asked about
	Add     string   // the command that writes a stub
	Idle    []string // methods of the type, with their files, that add rpc once wrote and no .proto file has any more
}

// FindUnwritten looks at the services of the project around dir. What can't be told is no finding: a service without an
// implementation, or with several, and a type that may have methods from what else it embeds.
func FindUnwritten(ctx context.Context, dir string) ([]Unwritten, error) {
	place, err := workspace.Find(dir)
	if err != nil {
		return nil, err
	}
	project, err := generate.Find(dir)
	if err != nil {
		return nil, err
	}
	a := &addition{Options: Options{Dir: dir}, place: place, project: project}
	compiled, err := project.Compile(ctx, dir, nil)
	if err != nil {
		return nil, err
	}
	all := services(compiled)
	if own := slices.DeleteFunc(slices.Clone(all), func(t target) bool { return !a.owns(t.file.GetPackage()) }); len(own) > 0 {
		all = own
	}
	var found []Unwritten
	for _, t := range all {
		found = append(found, a.unwritten(compiled, t)...)
	}
	return found, nil
}

func (a *addition) unwritten(c *generate.Compiled, t target) []Unwritten {
	var found []Unwritten
	var known []string
	var im implementation
	for i, m := range t.service.GetMethod() {
		r, err := resolve(c, t, m.GetName())
		if err != nil {
			return nil
		}
		if i == 0 {
			if im, err = a.implementation(r); err != nil || im.embedsMore {
				return nil
			}
		}
		known = append(known, r.method.GoName)
		if !im.methods[r.method.GoName] {
			found = append(found, Unwritten{Service: t.fullName(), Method: m.GetName(), Type: im.typeName, At: t.at(a.Dir, c, m), Add: a.command(t, m)})
		}
	}
	idle := a.idle(im, known)
	for i := range found {
		found[i].Idle = idle
	}
	return found
}

// command is what writes a stub for a method that the .proto file has.
func (a *addition) command(t target, m *descriptorpb.MethodDescriptorProto) string {
	line := "newsvc add rpc " + m.GetName()
	switch {
	case m.GetClientStreaming() && m.GetServerStreaming():
		line += " --stream bidi"
	case m.GetClientStreaming():
		line += " --stream client"
	case m.GetServerStreaming():
		line += " --stream server"
	}
	if !a.owns(t.file.GetPackage()) {
		line += " --service " + t.fullName()
	}
	return line
}

// idle are the methods in files that add rpc writes, but for the known ones.
func (a *addition) idle(im implementation, known []string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(im.written)) {
		if file := im.written[name]; strings.HasSuffix(file, "_rpc.go") && !slices.Contains(known, name) {
			out = append(out, fmt.Sprintf("%s in %s", name, generate.Shown(a.Dir, filepath.Clean(file))))
		}
	}
	return out
}

// String is the finding in one line.
func (u Unwritten) String() string {
	text := fmt.Sprintf("%s has no method %s, so calls of it end with UNIMPLEMENTED (%s)", u.Type, u.Method, u.At)
	if len(u.Idle) > 0 {
		text += "; no .proto file has " + strings.Join(u.Idle, ", ")
	}
	return text
}
