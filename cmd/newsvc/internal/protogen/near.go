package protogen

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
)

// What the compiler says of a word that it does not know.
var (
	unknownType  = regexp.MustCompile(`: unknown (?:request |response |extendee )?type ([\w.]+)`)
	notFound     = regexp.MustCompile(`could not resolve path ("[^"]+"): .*`)
	unknownFile  = regexp.MustCompile(`could not resolve path "([^"]+)"`)
	unknownField = regexp.MustCompile(`field (\w+) of ([\w.]+) does not exist`)
)

// withNearMisses adds to each problem what its author may have meant.
func (in Input) withNearMisses(problems []string) []string {
	out := make([]string, len(problems))
	for i, p := range problems {
		out[i] = notFound.ReplaceAllString(p, "there is no file $1 to import")
		if near := in.meant(p); near != "" {
			out[i] += "; did you mean " + near + "?"
		}
	}
	return out
}

func (in Input) meant(problem string) string {
	if m := unknownType.FindStringSubmatch(problem); m != nil {
		file, _, _ := strings.Cut(problem, ":")
		return in.nearType(file, m[1])
	}
	if m := unknownFile.FindStringSubmatch(problem); m != nil {
		return nearest.Word(m[1], in.importable())
	}
	if m := unknownField.FindStringSubmatch(problem); m != nil {
		return nearField(m[1], m[2])
	}
	return ""
}

// nearType looks among the messages and enums of all files; those of the same proto package are called by their short
// names, as an author would.
func (in Input) nearType(file, word string) string {
	pkg, names := "", []string{}
	for name, text := range in.Files {
		d := parsed(name, text)
		if name == file {
			pkg = d.GetPackage() + "."
		}
		for _, m := range d.GetMessageType() {
			names = append(names, messageNames(d.GetPackage()+".", m)...)
		}
		for _, e := range d.GetEnumType() {
			names = append(names, d.GetPackage()+"."+e.GetName())
		}
	}
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		if p := m.Descriptor().ParentFile().Path(); strings.HasPrefix(p, "google/protobuf/") {
			names = append(names, string(m.Descriptor().FullName()))
		}
		return true
	})
	for i, n := range names {
		names[i] = strings.TrimPrefix(n, pkg)
	}
	slices.Sort(names)
	return nearest.Word(word, slices.Compact(names))
}

func messageNames(scope string, m *descriptorpb.DescriptorProto) []string {
	names := []string{scope + m.GetName()}
	for _, e := range m.GetEnumType() {
		names = append(names, scope+m.GetName()+"."+e.GetName())
	}
	for _, n := range m.GetNestedType() {
		names = append(names, messageNames(scope+m.GetName()+".", n)...)
	}
	return names
}

// parsed reads a file as far as it can be read; what is wrong with it has been reported already.
func parsed(name string, text []byte) *descriptorpb.FileDescriptorProto {
	quiet := reporter.NewHandler(reporter.NewReporter(func(reporter.ErrorWithPos) error { return nil }, nil))
	node, _ := parser.Parse(name, bytes.NewReader(text), quiet)
	if node == nil {
		return nil
	}
	res, _ := parser.ResultFromAST(node, false, quiet)
	if res == nil {
		return nil
	}
	return res.FileDescriptorProto()
}

func (in Input) importable() []string {
	names := slices.Concat(slices.Collect(maps.Keys(in.Files)), slices.Collect(maps.Keys(in.Imports)))
	protoregistry.GlobalFiles.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		for _, dir := range []string{"google/", "buf/validate/", "newsvc/auth/"} {
			if strings.HasPrefix(fd.Path(), dir) {
				names = append(names, fd.Path())
			}
		}
		return true
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// nearField looks among the fields of a message that this binary knows: those are options.
func nearField(word, message string) string {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(message))
	m, ok := d.(protoreflect.MessageDescriptor)
	if err != nil || !ok {
		return ""
	}
	var names []string
	for i := range m.Fields().Len() {
		names = append(names, string(m.Fields().Get(i).Name()))
	}
	return nearest.Word(word, names)
}
