package addrpc_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"
	"github.com/bufbuild/protocompile/sourceinfo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
)

// FuzzInsert adds a method to every service of a file that can be parsed. The file can be parsed afterwards, declares what it
// did and the method, its comments belong to whom they belonged, and all its other bytes are there.
func FuzzInsert(f *testing.F) {
	for _, text := range []string{
		service,
		head + "service A {}",
		head + "service A { }\n\n\n",
		head + "service A { ; }\nservice B {\n};;\n",
		head + "service A {\n  // None yet.\n}\n",
		head + "service A { /* none } yet */ } // behind\n// h",
		head + "/* a { */ service /* b */ A /* c } */ { // d\n  // Ping\n  rpc Ping(PingRequest) returns (PingResponse) { } // e }\n  // f\n} // g\n" + ping,
		head + "service A { rpc Ping(PingRequest) returns (PingResponse); /* x */ }" + ping,
		head + "service A {\n\trpc Ping(PingRequest) returns (PingResponse) {\n\t\toption deprecated = true;\n\t}; // y\n\n\n}\n" + ping,
		head + "service A {\n  option deprecated = true; /* one\n two */ }\n",
		head + "message M { message Get { message GetRequest {} } }\nservice Get { rpc M(M.Get.GetRequest) returns (stream M); }\n",
		"edition = \"2023\";\npackage a.b;\noption features.field_presence = IMPLICIT;\nservice A{rpc/**/B(C)returns(C){}}message C{string s=1[default=\"service A {}\"];}",
		"syntax = \"proto2\";\nservice A\n{\n}\nmessage B { optional group C = 1 { } }\nextend B { }",
		"service A {}", "\xef\xbb\xbfsyntax = \"proto3\";service A{}", "service A {\f\v}\n", "service A {\r}\r", "/**/service A {}//", "service A {}/**/",
		"option (x) = { a: \"service B {\" b: 'q}' };\nservice A { option (y) = { c { d: 1 } }; }\n",
		"service A {\n  // ü 服务\n  rpc B (.google.protobuf.Empty) returns (stream .C) ; }\n",
	} {
		f.Add([]byte(text))
		f.Add([]byte(strings.ReplaceAll(text, "\n", "\r\n")))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before, comments := understood(text)
		if before == nil {
			t.Skip("no .proto file")
		}
		for i, s := range before.GetService() {
			if slices.ContainsFunc(before.GetService()[:i], func(o *descriptorpb.ServiceDescriptorProto) bool { return o.GetName() == s.GetName() }) {
				continue // two of one name do not compile: the edit is not asked for
			}
			out, line, err := addrpc.Insert("x.proto", text, s.GetName(), rpcZz, []string{"ZzRequest", "ZzResponse"})
			if err != nil {
				t.Fatalf("insert into %s: %v", s.GetName(), err)
			}
			after, commentsAfter := understood(out)
			if after == nil {
				t.Fatalf("%q cannot be parsed any more:\n%q", text, out)
			}
			if lines := strings.Split(string(out), "\n"); !strings.Contains(lines[line-1], rpcZz) {
				t.Errorf("line %d is %q", line, lines[line-1])
			}
			sameButOne(t, i, before, after)
			for path, c := range comments {
				if commentsAfter[path] != c {
					t.Errorf("the comments of %s were %q and are %q, in\n%s", path, c, commentsAfter[path], out)
				}
			}
			otherBytesStay(t, text, out)
		}
	})
}

const rpcZz = "rpc Zz(ZzRequest) returns (ZzResponse);"

// understood returns what a file declares, and the comments of each declaration but the file: nil for one that cannot be
// parsed.
func understood(text []byte) (*descriptorpb.FileDescriptorProto, map[string]string) {
	h := reporter.NewHandler(nil)
	node, err := parser.Parse("x.proto", bytes.NewReader(text), h)
	if err != nil {
		return nil, nil
	}
	res, err := parser.ResultFromAST(node, false, h)
	if err != nil {
		return nil, nil
	}
	comments := map[string]string{}
	for _, l := range sourceinfo.GenerateSourceInfo(node, sourceinfo.OptionIndex{}).GetLocation() {
		all := []string{l.GetLeadingComments(), l.GetTrailingComments()}
		all = append(all, l.GetLeadingDetachedComments()...)
		if text := strings.Join(all, "\x00"); len(l.GetPath()) > 0 && strings.Trim(text, "\x00") != "" {
			comments[fmt.Sprint(l.GetPath())] = text
		}
	}
	return res.FileDescriptorProto(), comments
}

// sameButOne compares what two files declare: the second has one method more, and two messages.
func sameButOne(t *testing.T, service int, before, after *descriptorpb.FileDescriptorProto) {
	t.Helper()
	want := proto.CloneOf(before)
	s := want.GetService()[service]
	s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{Name: proto.String("Zz"), InputType: proto.String("ZzRequest"), OutputType: proto.String("ZzResponse")})
	want.MessageType = append(want.MessageType, &descriptorpb.DescriptorProto{Name: proto.String("ZzRequest")}, &descriptorpb.DescriptorProto{Name: proto.String("ZzResponse")})
	if !proto.Equal(want, after) {
		t.Errorf("the file declares\n%v\nwant\n%v", after, want)
	}
}

// otherBytesStay wants the bytes of text in out, around one insertion and before what is added at the end. Only blanks
// before the brace may have given way.
func otherBytesStay(t *testing.T, text, out []byte) {
	t.Helper()
	eol := "\n"
	if bytes.HasSuffix(out, []byte("\r\n")) {
		eol = "\r\n"
	}
	body, ok := bytes.CutSuffix(out, []byte(eol+"message ZzRequest {}"+eol+eol+"message ZzResponse {}"+eol))
	if !ok {
		t.Fatalf("the file does not end with the messages:\n%q", out)
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		if body, ok = bytes.CutSuffix(body, []byte(eol)); !ok {
			t.Fatalf("the messages are on the last line of the file:\n%q", out)
		}
	}
	a := 0
	for a < len(text) && a < len(body) && text[a] == body[a] {
		a++
	}
	b := 0
	for b < len(text)-a && b < len(body)-a && text[len(text)-1-b] == body[len(body)-1-b] {
		b++
	}
	if gone := text[a : len(text)-b]; len(bytes.Trim(gone, " \t")) > 0 {
		t.Errorf("%q is gone; the file was\n%q\nand is\n%q", gone, text, out)
	}
}
