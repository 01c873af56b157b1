package call

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/nearest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// Documents are JSON documents, one after the other, each of which is a message.
type Documents struct {
	name  string
	in    *bytes.Buffer // what was read, for positions
	dec   *json.Decoder
	types *dynamicpb.Types
	close func() error
}

// Data opens what -d says: JSON itself, @file, or @- for stdin. The error is a [*problem.Error]. It has to be closed.
func Data(text string, stdin io.Reader, m *Methods) (*Documents, error) {
	d := &Documents{name: "-d", in: &bytes.Buffer{}, types: dynamicpb.NewTypes(m.files), close: func() error { return nil }}
	var src io.Reader = strings.NewReader(text)
	if file, ok := strings.CutPrefix(text, "@"); ok && file == "-" {
		d.name, src = "stdin", stdin
	} else if ok {
		f, err := os.Open(file)
		if err != nil {
			return nil, &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("-d %s: the file can't be read", text), At: err.Error(), Fix: "-d @FILE, or -d @- for stdin", Err: err}
		}
		d.name, src, d.close = file, f, f.Close
	}
	d.dec = json.NewDecoder(io.TeeReader(src, d.in))
	return d, nil
}

// Close closes the file, if it is one.
func (d *Documents) Close() error { return d.close() }

// Next returns the next message of a type; io.EOF after the last one. Other errors are of type [*problem.Error], with the
// position.
func (d *Documents) Next(desc protoreflect.MessageDescriptor) (proto.Message, error) {
	start := d.dec.InputOffset()
	var raw json.RawMessage
	switch err := d.dec.Decode(&raw); {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		raw = d.in.Bytes()[start:] // which does not parse: the reader of messages says why
	default:
		start = d.dec.InputOffset() - int64(len(raw))
	}
	msg := dynamicpb.NewMessage(desc)
	if err := (protojson.UnmarshalOptions{Resolver: d.types}).Unmarshal(raw, msg); err != nil {
		return nil, d.wrong(desc, raw, int(start), err)
	}
	return msg, nil
}

// position is how protojson tells where.
var position = regexp.MustCompile(`\(line (\d+):(\d+)\):?\s*`)

// wrong says what is wrong with a document that begins at an offset, and where.
func (d *Documents) wrong(desc protoreflect.MessageDescriptor, raw []byte, start int, err error) error {
	text := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
	at := d.name
	if m := position.FindStringSubmatchIndex(text); m != nil {
		line, _ := strconv.Atoi(text[m[2]:m[3]])
		column, _ := strconv.Atoi(text[m[4]:m[5]])
		before := d.in.Bytes()[:start]
		if line == 1 {
			column += start - (bytes.LastIndexByte(before, '\n') + 1)
		}
		line += bytes.Count(before, []byte("\n"))
		at = fmt.Sprintf("%s:%d:%d", d.name, line, column)
		text = text[:m[0]] + text[m[1]:]
	}
	p := &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("%s is not a %s: %s", d.name, desc.Name(), strings.TrimSpace(text)), At: at, Err: err}
	var plain any
	if json.Unmarshal(raw, &plain) != nil {
		p.Fix = "-d '" + Skeleton(desc) + "'"
		return p
	}
	if field, in := unknownField(plain, desc); in != nil {
		known := fieldNames(in)
		p.What += fmt.Sprintf(" (has: %s)", strings.Join(known, ", "))
		if near := nearest.Word(field, known); near != "" {
			p.Fix = fmt.Sprintf("write %q in place of %q", near, field)
		} else if in == desc {
			p.Fix = "-d '" + Skeleton(desc) + "'"
		}
	}
	return p
}

// unknownField finds the first field of a document that its message does not have, and that message.
func unknownField(doc any, desc protoreflect.MessageDescriptor) (string, protoreflect.MessageDescriptor) {
	object, ok := doc.(map[string]any)
	if !ok || strings.HasPrefix(string(desc.FullName()), "google.protobuf.") {
		return "", nil
	}
	for name, value := range object {
		f := desc.Fields().ByJSONName(name)
		if f == nil {
			f = desc.Fields().ByTextName(name)
		}
		if f == nil {
			return name, desc
		}
		inner := f.Message()
		if f.IsMap() {
			inner = f.MapValue().Message()
		}
		if inner == nil {
			continue
		}
		values := []any{value}
		if list, ok := value.([]any); ok {
			values = list
		} else if entries, ok := value.(map[string]any); ok && f.IsMap() {
			values = values[:0]
			for _, v := range entries {
				values = append(values, v)
			}
		}
		for _, v := range values {
			if field, in := unknownField(v, inner); in != nil {
				return field, in
			}
		}
	}
	return "", nil
}

func fieldNames(desc protoreflect.MessageDescriptor) []string {
	out := make([]string, 0, desc.Fields().Len())
	for n := range desc.Fields().Len() {
		out = append(out, desc.Fields().Get(n).JSONName())
	}
	slices.Sort(out)
	return out
}

// Skeleton is an empty message with all its fields, as JSON to fill in.
func Skeleton(desc protoreflect.MessageDescriptor) string {
	out, err := JSON(dynamicpb.NewMessage(desc), dynamicpb.NewTypes(nil), true)
	if err != nil {
		return "{}"
	}
	return string(out)
}

// JSON is a message in one line; with defaults also the fields that are not set.
func JSON(msg proto.Message, types *dynamicpb.Types, defaults bool) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: defaults, Resolver: types}.Marshal(msg)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer // protojson puts in spaces at random
	err = json.Compact(&out, raw)
	return out.Bytes(), err
}
