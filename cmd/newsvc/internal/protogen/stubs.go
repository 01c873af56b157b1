package protogen

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// StubsVersion is the release of protoc-gen-go-grpc whose output [Generate] reproduces byte for byte.
const StubsVersion = "1.6.2"

// Field numbers of FileDescriptorProto, under which comments of a file's first lines are kept.
const (
	packageField = 2
	syntaxField  = 12
)

//go:embed stubs.go.tmpl
var stubsText string

// generateStubs adds X_grpc.pb.go for a file that declares services. The text is in stubs.go.tmpl; here is what a
// template cannot know: how another package's identifier is written, and the comments. Identifiers are resolved in the
// order of the text, which decides what a package is called when two have the same name.
func generateStubs(plugin *protogen.Plugin, f *protogen.File) {
	if len(f.Services) == 0 {
		return
	}
	g := plugin.NewGeneratedFile(f.GeneratedFilenamePrefix+"_grpc.pb.go", f.GoImportPath)
	view := fileView{
		Path:            f.Desc.Path(),
		GoPackage:       string(f.GoPackageName),
		Version:         StubsVersion,
		Deprecated:      f.Proto.GetOptions().GetDeprecated(),
		SyntaxComments:  looseComments(f, syntaxField),
		PackageComments: looseComments(f, packageField),
	}
	for _, s := range f.Services {
		view.Services = append(view.Services, newServiceView(g, s))
	}
	t, err := template.New("stubs").Delims("«", "»").Funcs(template.FuncMap{
		"grpc":    from(g, "google.golang.org/grpc"),
		"context": from(g, "context"),
		"codes":   from(g, "google.golang.org/grpc/codes"),
		"status":  from(g, "google.golang.org/grpc/status"),
	}).Parse(stubsText)
	if err == nil {
		err = t.Execute(g, view)
	}
	if err != nil {
		plugin.Error(fmt.Errorf("write the gRPC stubs of %s: %w", view.Path, err))
	}
}

func from(g *protogen.GeneratedFile, pkg protogen.GoImportPath) func(string) string {
	return func(name string) string { return g.QualifiedGoIdent(pkg.Ident(name)) }
}

type fileView struct {
	Path, GoPackage, Version        string
	Deprecated                      bool
	SyntaxComments, PackageComments []string
	Services                        []serviceView
}

type serviceView struct {
	Name, Private, FullName, Metadata string
	Deprecated                        bool
	Comment                           string
	Methods                           []methodView
}

type methodView struct {
	g       *protogen.GeneratedFile
	in, out protogen.GoIdent

	Service, Name, ProtoName, FullName string
	Deprecated                         bool
	Comment                            string
	FromClient, FromServer             bool // which side streams
	Index                              int  // among the methods of its kind: unary or streaming
}

func newServiceView(g *protogen.GeneratedFile, s *protogen.Service) serviceView {
	options, _ := s.Desc.Options().(*descriptorpb.ServiceOptions)
	v := serviceView{
		Name:       s.GoName,
		Private:    strings.ToLower(s.GoName[:1]) + s.GoName[1:],
		FullName:   string(s.Desc.FullName()),
		Metadata:   s.Desc.ParentFile().Path(),
		Deprecated: options.GetDeprecated(),
		Comment:    strings.TrimSpace(s.Comments.Leading.String()),
	}
	unary, streams := 0, 0
	for _, m := range s.Methods {
		options, _ := m.Desc.Options().(*descriptorpb.MethodOptions)
		mv := methodView{
			g: g, in: m.Input.GoIdent, out: m.Output.GoIdent,
			Service: s.GoName, Name: m.GoName, ProtoName: string(m.Desc.Name()),
			FullName:   fmt.Sprintf("/%s/%s", s.Desc.FullName(), m.Desc.Name()),
			Deprecated: options.GetDeprecated(),
			Comment:    m.Comments.Leading.String(),
			FromClient: m.Desc.IsStreamingClient(),
			FromServer: m.Desc.IsStreamingServer(),
		}
		count := &unary
		if !mv.Unary() {
			count = &streams
		}
		mv.Index = *count
		*count++
		v.Methods = append(v.Methods, mv)
	}
	return v
}

// Unary reports whether neither side streams.
func (m methodView) Unary() bool { return !m.FromClient && !m.FromServer }

// In is the request type as it is written in the file.
func (m methodView) In() string { return m.g.QualifiedGoIdent(m.in) }

// Out is the response type as it is written in the file.
func (m methodView) Out() string { return m.g.QualifiedGoIdent(m.out) }

// Stream names grpc's generic stream type for one side, "Client" or "Server", with its type arguments.
func (m methodView) Stream(side string) string {
	in, out := m.In(), m.Out()
	grpc := from(m.g, "google.golang.org/grpc")
	switch {
	case m.FromClient && m.FromServer:
		return grpc("BidiStreaming"+side) + "[" + in + ", " + out + "]"
	case m.FromClient:
		return grpc("ClientStreaming"+side) + "[" + in + ", " + out + "]"
	default:
		return grpc("ServerStreaming"+side) + "[" + out + "]"
	}
}

// looseComments are the comments before a line of the file's head, each with the blank line that keeps it loose.
func looseComments(f *protogen.File, field int32) []string {
	loc := f.Desc.SourceLocations().ByPath(protoreflect.SourcePath{field})
	texts := loc.LeadingDetachedComments
	if loc.LeadingComments != "" {
		texts = append(texts[:len(texts):len(texts)], loc.LeadingComments)
	}
	var out []string
	for _, t := range texts {
		out = append(out, protogen.Comments(t).String())
	}
	return out
}
