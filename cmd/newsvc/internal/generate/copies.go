package generate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
)

// copyHeader heads a .proto file that belongs to another project.
var copyHeader = regexp.MustCompile(`^// Copied by newsvc add client from ([^\r\n]+)\r?\n// sha256 of the original: ([0-9a-f]{64})\. (?:Do not edit; to bring it up to date: )?([^\r\n]*)\r?\n(?:\r?\n)?`)

// Copy is a .proto file of another project, copied into this one.
type Copy struct {
	Source string // where it came from
	Sum    string // sha256 of the original, hexadecimal
	Again  string // the command that copies it again
	Edited bool   // it is no longer what was copied
}

// NewCopy returns the text of a copy: the original below a header with its source and its hash.
func NewCopy(source, again string, original []byte) []byte {
	eol := "\n"
	if bytes.Contains(original, []byte("\r\n")) {
		eol = "\r\n"
	}
	return fmt.Appendf(nil, "// Copied by newsvc add client from %s%s// sha256 of the original: %s. Do not edit; to bring it up to date: %s%s%s%s",
		source, eol, sum(original), again, eol, eol, original)
}

// ReadCopy reads the header of a copy; ok is false for a file that was not copied.
func ReadCopy(text []byte) (c Copy, ok bool) {
	m := copyHeader.FindSubmatch(text)
	if m == nil {
		return Copy{}, false
	}
	c = Copy{Source: string(m[1]), Sum: string(m[2]), Again: string(m[3])}
	c.Edited = sum(text[len(m[0]):]) != c.Sum
	return c, true
}

// Of reports whether it was copied from that text.
func (c Copy) Of(original []byte) bool { return sum(original) == c.Sum }

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}
