package addrpc

import (
	"bytes"
	"strings"

	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// byteOrderMark may begin a file; the parser does not count it.
const byteOrderMark = "\xef\xbb\xbf"

// insert returns text with one more line in a service and empty messages at the end, and the number of that line. All
// else stays as it is, byte for byte: comments, blank lines and the ends of lines.
func insert(name string, text []byte, service, line string, messages []string) ([]byte, int, error) {
	body, marked := bytes.CutPrefix(text, []byte(byteOrderMark))
	file, err := parser.Parse(name, bytes.NewReader(body), reporter.NewHandler(nil))
	if err != nil {
		return nil, 0, &problem.Error{What: name + " does not compile", At: err.Error(), Fix: "mend the line, then run it again", Err: err}
	}
	node := find(file, service)
	if node == nil {
		return nil, 0, &problem.Error{What: "the service " + service + " is not where it was a moment ago", At: name, Fix: "run it again"}
	}
	e := edit{file: file, text: body, eol: "\n"}
	if crlf := bytes.Count(body, []byte("\r\n")); crlf*2 > bytes.Count(body, []byte("\n")) {
		e.eol = "\r\n"
	}
	from, to, added := e.method(node, line)
	at := bytes.Count(body[:from], []byte("\n")) + strings.Count(added[:strings.Index(added, line)], "\n") + 1
	var out bytes.Buffer
	if marked {
		out.WriteString(byteOrderMark)
	}
	out.Write(body[:from])
	out.WriteString(added)
	out.Write(body[to:])
	if !bytes.HasSuffix(body, []byte("\n")) {
		out.WriteString(e.eol)
	}
	for _, m := range messages {
		out.WriteString(e.eol + "message " + m + " {}" + e.eol)
	}
	return out.Bytes(), at, nil
}

func find(file *ast.FileNode, service string) *ast.ServiceNode {
	for _, d := range file.Decls {
		if s, ok := d.(*ast.ServiceNode); ok && s.Name.Val == service {
			return s
		}
	}
	return nil
}

type edit struct {
	file *ast.FileNode
	text []byte
	eol  string
}

func (e edit) offset(n ast.Node) int { return e.file.NodeInfo(n).Start().Offset }

// method says which bytes give way to which text: none but blanks before a brace on the same line. The new line stands
// at the end of the service, below what is there and apart from it, so that no comment changes its owner.
func (e edit) method(s *ast.ServiceNode, line string) (from, to int, added string) {
	open, end := e.offset(s.OpenBrace)+1, e.offset(s.CloseBrace)
	inside := e.text[open:end]
	outer, _ := e.indent(e.offset(s))
	inner := outer + "  "
	for _, d := range s.Decls {
		if blanks, first := e.indent(e.offset(d)); first && e.offset(d) > open {
			inner = blanks
			break
		}
	}
	space := ""
	if len(bytes.TrimSpace(inside)) > 0 {
		space = e.eol
	}
	if blanks, first := e.indent(end); first { // the brace has a line of its own
		from = end - len(blanks)
		if bytes.HasSuffix(e.text[:from], []byte("\n\n")) || bytes.HasSuffix(e.text[:from], []byte("\n\r\n")) {
			space = ""
		}
		return from, from, space + inner + line + e.eol
	}
	from = open + len(bytes.TrimRight(inside, " \t"))
	return from, end, e.eol + space + inner + line + e.eol + outer
}

// indent returns the blanks that begin the line of an offset, and whether nothing else is before it.
func (e edit) indent(offset int) (blanks string, first bool) {
	begin := bytes.LastIndexByte(e.text[:offset], '\n') + 1
	before := e.text[begin:offset]
	n := len(before) - len(bytes.TrimLeft(before, " \t"))
	return string(before[:n]), n == len(before)
}
