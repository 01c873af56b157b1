package discovery

import "strings"

// This file reads the shape of value that nearly every instance has, several times as fast as encoding/json: a caller of
// ten thousand instances takes in as many values when it starts. It understands exactly what [Encode] and etcd's naming
// package write, with their order of fields and without white space, and nothing with an escape or beyond ASCII. For all
// else it declines, and encoding/json decides; what it accepts means the same there.

// scanner is what is left to read. Each method reports whether the text went on as it says; after a false the scanner
// is of no use.
type scanner struct{ rest string }

func (s *scanner) literal(want string) bool {
	rest, ok := strings.CutPrefix(s.rest, want)
	if ok {
		s.rest = rest
	}
	return ok
}

// text reads the rest of a string up to and with its closing quote. The result shares memory with the value.
func (s *scanner) text(into *string) bool {
	for n := range len(s.rest) {
		switch c := s.rest[n]; {
		case c == '"':
			*into, s.rest = s.rest[:n], s.rest[n+1:]
			return true
		case c == '\\' || c < ' ' || c >= 0x7f:
			return false
		}
	}
	return false
}

// number reads a whole number of at most nine digits.
func (s *scanner) number(into *int) bool {
	n := 0
	for n < len(s.rest) && n < 10 && '0' <= s.rest[n] && s.rest[n] <= '9' {
		*into = *into*10 + int(s.rest[n]-'0')
		n++
	}
	if n == 0 || n == 10 || n > 1 && s.rest[0] == '0' {
		return false
	}
	s.rest = s.rest[n:]
	return true
}

// field reads a string field when it comes next; that it does not is no reason to decline.
func (s *scanner) field(name string, into *string) bool {
	return !s.literal(name) || s.text(into)
}

// pairs reads the rest of an object of strings.
func (s *scanner) pairs(into map[string]string) bool {
	for first := true; !s.literal("}"); first = false {
		var key, value string
		if !first && !s.literal(",") {
			return false
		}
		if !s.literal(`"`) || !s.text(&key) || !s.literal(`:"`) || !s.text(&value) {
			return false
		}
		into[key] = value
	}
	return true
}

// shape is what a value was found to be.
type shape int

const (
	unusual      shape = iota // encoding/json decides
	usualForeign              // an address alone
	usualOurs                 // an address and our metadata
)

// readUsual reads a value in its usual shape. What it has written is of use only as the shape says.
func readUsual(value string, addr *string, m *metadata) shape {
	s := scanner{value}
	if !s.literal(`{"Op":0,"Addr":"`) || !s.text(addr) {
		return unusual
	}
	if s.rest == "}" || s.rest == `,"Metadata":null}` {
		return usualForeign
	}
	if !s.literal(`,"Metadata":{"incarnation":"`) || !s.text(&m.Incarnation) || m.Incarnation == "" {
		return unusual
	}
	if !s.field(`,"state":"`, (*string)(&m.State)) || !s.field(`,"version":"`, &m.Version) ||
		s.literal(`,"weight":`) && !s.number(&m.Weight) ||
		!s.field(`,"zone":"`, &m.Zone) || !s.field(`,"admin":"`, &m.Admin) {
		return unusual
	}
	if s.literal(`,"meta":{`) {
		m.Meta = make(map[string]string)
		if !s.pairs(m.Meta) {
			return unusual
		}
	}
	if s.rest != "}}" {
		return unusual
	}
	return usualOurs
}
