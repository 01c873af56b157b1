package addrpc

import (
	"strings"
	"unicode"
)

// MethodName returns the UpperCamelCase form of a name; an accepted name is returned as it is. Letters and digits of
// ASCII only: what protoc accepts.
func MethodName(name string) string {
	var b strings.Builder
	begin := true
	for _, r := range name {
		switch {
		case r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r):
			begin = true
		case b.Len() == 0 && unicode.IsDigit(r): // a name begins with a letter
		case begin:
			b.WriteRune(unicode.ToUpper(r))
			begin = false
		default:
			b.WriteRune(r)
		}
	}
	if b.Len() == 0 {
		return "GetUser"
	}
	// A letter after a digit is written in upper case by protoc-gen-go, so the name would differ between proto and Go.
	out := []rune(b.String())
	for i := 1; i < len(out); i++ {
		if unicode.IsDigit(out[i-1]) {
			out[i] = unicode.ToUpper(out[i])
		}
	}
	return string(out)
}

// snake is the name in lower case with an underscore between words, for file names. Digits belong to the word before
// them: Get2FA gives get2_fa.
func snake(name string) string {
	r := []rune(name)
	var b strings.Builder
	for i := range r {
		if i > 0 && unicode.IsUpper(r[i]) {
			beforeWord := i+1 < len(r) && unicode.IsLower(r[i+1])
			if !unicode.IsUpper(r[i-1]) || beforeWord {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r[i]))
	}
	return b.String()
}
