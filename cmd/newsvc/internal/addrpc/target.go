package addrpc

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// target is the proto service that the method is added to.
type target struct {
	file    *descriptorpb.FileDescriptorProto
	service *descriptorpb.ServiceDescriptorProto
	index   int // of the service in its file
}

func (t target) fullName() string {
	return strings.TrimPrefix(t.file.GetPackage()+"."+t.service.GetName(), ".")
}

func (t target) method(name string) *descriptorpb.MethodDescriptorProto {
	for _, m := range t.service.GetMethod() {
		if m.GetName() == name {
			return m
		}
	}
	return nil
}

// at is the position of a method: file:line:column.
func (t target) at(dir string, c *generate.Compiled, method *descriptorpb.MethodDescriptorProto) string {
	name := generate.Shown(dir, c.Path(t.file.GetName()))
	j := slices.Index(t.service.GetMethod(), method)
	want := []int32{6, int32(t.index), 2, int32(j)} // field numbers and indices of FileDescriptorProto
	for _, l := range t.file.GetSourceCodeInfo().GetLocation() {
		if slices.Equal(l.GetPath(), want) {
			return fmt.Sprintf("%s:%d:%d", name, l.GetSpan()[0]+1, l.GetSpan()[1]+1)
		}
	}
	return name
}

// target chooses among the services of the project: those in the proto package that belongs to the service around the
// directory, or else all that were not copied from other projects.
func (a *addition) target(c *generate.Compiled) (target, error) {
	all := services(c)
	own := slices.DeleteFunc(slices.Clone(all), func(t target) bool { return !a.owns(t.file.GetPackage()) })
	if a.Service != "" {
		return a.named(all)
	}
	if len(own) == 0 {
		if err := a.noAPI(all); err != nil {
			return target{}, err
		}
		own = all
	}
	switch len(own) {
	case 1:
		return own[0], nil
	case 0:
		return target{}, &problem.Error{
			Exit: problem.Usage, What: "no .proto file of this project declares a service", At: a.project.Proto,
			Fix: "write one, for example: service UserService {}",
		}
	}
	list := fullNames(own)
	return target{}, &problem.Error{
		Exit: problem.Usage,
		What: fmt.Sprintf("%s services in this project; say which", count(len(own))),
		At:   strings.Join(list, ", "),
		Fix:  fmt.Sprintf("newsvc add rpc %s --service %s%s", a.Name, list[0], a.streamFlag()),
	}
}

// noAPI refuses a service that shares its .proto files with others and has none of its own, such as a gateway.
func (a *addition) noAPI(all []target) error {
	shared := a.place.Kind == workspace.Workspace || a.place.Kind == workspace.Checkout
	if !shared || a.place.ServiceName == "" {
		return nil
	}
	domain := a.place.ServiceName
	if n, err := names.Parse(domain); err == nil {
		domain = n.Domain
	}
	p := &problem.Error{
		Exit: problem.Conflict, What: a.place.ServiceName + " has no API of its own: no .proto file declares a service in package " + domain,
		At: a.project.Proto, Fix: "newsvc add rpc " + a.Name + a.streamFlag() + " -C DIR      (of the service that is to have it)",
	}
	if len(all) > 0 {
		p.At = "there are: " + strings.Join(fullNames(all), ", ")
	}
	return p
}

// owns says whether a proto package belongs to the service around the directory.
func (a *addition) owns(pkg string) bool {
	n, err := names.Parse(a.place.ServiceName)
	return err == nil && (pkg == n.Domain || strings.HasPrefix(pkg, n.Domain+"."))
}

func (a *addition) named(all []target) (target, error) {
	var found []target
	var known []string
	for _, t := range all {
		if t.fullName() == a.Service || t.service.GetName() == a.Service {
			found = append(found, t)
		}
		known = append(known, t.service.GetName(), t.fullName())
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		p := &problem.Error{
			Exit: problem.Usage, What: fmt.Sprintf("this project has no service %q", a.Service), At: "there are: " + strings.Join(fullNames(all), ", "),
			Fix: "newsvc add rpc " + a.Name + a.streamFlag(),
		}
		if near := nearest.Word(a.Service, known); near != "" {
			p.Fix = fmt.Sprintf("newsvc add rpc %s --service %s%s", a.Name, near, a.streamFlag())
		}
		return target{}, p
	}
	list := fullNames(found)
	return target{}, &problem.Error{
		Exit: problem.Usage, What: fmt.Sprintf("%s services are called %s; say which", count(len(found)), a.Service), At: strings.Join(list, ", "),
		Fix: fmt.Sprintf("newsvc add rpc %s --service %s%s", a.Name, list[0], a.streamFlag()),
	}
}

func (a *addition) streamFlag() string {
	if a.Stream == "" || a.Stream == "none" {
		return ""
	}
	return " --stream " + a.Stream
}

// services returns all services that code is generated from, but those of other projects.
func services(c *generate.Compiled) []target {
	var all []target
	for _, file := range c.Request.GetProtoFile() {
		if !slices.Contains(c.Request.GetFileToGenerate(), file.GetName()) {
			continue
		}
		if _, copied := generate.ReadCopy(c.Text(file.GetName())); copied {
			continue
		}
		for i, s := range file.GetService() {
			all = append(all, target{file, s, i})
		}
	}
	slices.SortFunc(all, func(x, y target) int { return strings.Compare(x.fullName(), y.fullName()) })
	return all
}

func fullNames(list []target) []string {
	var out []string
	for _, t := range list {
		out = append(out, t.fullName())
	}
	return out
}

func count(n int) string {
	if n == 2 {
		return "two"
	}
	return fmt.Sprint(n)
}

// sameKind refuses a method of that name that is another one.
func (a *addition) sameKind(c *generate.Compiled, t target, m *descriptorpb.MethodDescriptorProto) error {
	if m.GetClientStreaming() == a.fromClient() && m.GetServerStreaming() == a.fromServer() {
		return nil
	}
	kind := "none"
	switch {
	case m.GetClientStreaming() && m.GetServerStreaming():
		kind = "bidi"
	case m.GetClientStreaming():
		kind = "client"
	case m.GetServerStreaming():
		kind = "server"
	}
	return &problem.Error{
		Exit: problem.Conflict,
		What: fmt.Sprintf("%s already has a method %s, with --stream %s", t.service.GetName(), a.Name, kind),
		At:   t.at(a.Dir, c, m),
		Fix:  "choose another name, or edit the line",
	}
}

// missingMessages returns which of the two messages have to be written. One that the file declares or imports is used.
func (a *addition) missingMessages(c *generate.Compiled, t target) ([]string, error) {
	var missing []string
	for _, name := range []string{a.Name + "Request", a.Name + "Response"} {
		file, kind := declared(c, t.file.GetPackage(), name)
		switch {
		case file == "":
			missing = append(missing, name)
		case kind != "message":
			return nil, &problem.Error{
				Exit: problem.Conflict,
				What: fmt.Sprintf("%s needs a message %s, but that is %s", a.Name, name, kind),
				At:   generate.Shown(a.Dir, c.Path(file)),
				Fix:  "choose another name for the method",
			}
		case file != t.file.GetName() && !visible(c, t.file)[file]:
			return nil, &problem.Error{
				Exit: problem.Conflict,
				What: fmt.Sprintf("%s needs a message %s, which another file declares", a.Name, name),
				At:   generate.Shown(a.Dir, c.Path(file)),
				Fix:  fmt.Sprintf("add to %s: import %q;", generate.Shown(a.Dir, c.Path(t.file.GetName())), file),
			}
		}
	}
	return missing, nil
}

// visible are the files that a file imports, with those that they import for others.
func visible(c *generate.Compiled, file *descriptorpb.FileDescriptorProto) map[string]bool {
	all := map[string]bool{}
	queue := slices.Clone(file.GetDependency())
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if all[name] {
			continue
		}
		all[name] = true
		for _, f := range c.Request.GetProtoFile() {
			for _, i := range f.GetPublicDependency() {
				if f.GetName() == name {
					queue = append(queue, f.GetDependency()[i])
				}
			}
		}
	}
	return all
}

// declared says which file declares a name in a proto package, and as what.
func declared(c *generate.Compiled, pkg, name string) (file, kind string) {
	for _, f := range c.Request.GetProtoFile() {
		if f.GetPackage() != pkg {
			continue
		}
		for _, m := range f.GetMessageType() {
			if m.GetName() == name {
				return f.GetName(), "message"
			}
		}
		for _, e := range f.GetEnumType() {
			if e.GetName() == name {
				return f.GetName(), "an enum"
			}
			for _, v := range e.GetValue() { // values are siblings of their enum
				if v.GetName() == name {
					return f.GetName(), "a value of an enum"
				}
			}
		}
		for _, s := range f.GetService() {
			if s.GetName() == name {
				return f.GetName(), "a service"
			}
		}
	}
	return "", ""
}
