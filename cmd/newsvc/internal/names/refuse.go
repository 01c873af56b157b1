package names

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/newsvc/newsvc/framework/discovery"
)

var (
	wellFormed = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	major      = regexp.MustCompile(`^v[0-9]+$`)
)

// reason explains a refusal. It runs only for names that discovery refuses, and tells the cases apart.
func reason(name string) string {
	switch {
	case name == "":
		return "a service needs a name"
	case !wellFormed.MatchString(name):
		return fmt.Sprintf("%q is not a service name: use lower-case letters, digits and single dashes", name)
	case len(name) > discovery.MaxServiceLength:
		return fmt.Sprintf("%q is too long for a service name: it has %d characters, at most %d fit into the names built from it",
			name, len(name), discovery.MaxServiceLength)
	case name == "internal", name == "vendor", name == "testdata":
		return fmt.Sprintf("%q cannot be a service name: the go command gives directories with that name a special meaning", name)
	case name == "newsvc":
		return fmt.Sprintf("%q cannot be a service name: it is the framework's own", name)
	case major.MatchString(name):
		return fmt.Sprintf("%q cannot be a service name: a module path that ends so means a major version", name)
	default:
		return fmt.Sprintf("%q cannot be a service name: it is a device name on Windows", name)
	}
}

// Suggest returns an accepted name close to the given one; an accepted name is returned as it is.
func Suggest(name string) string {
	switch name {
	case "internal", "vendor":
		return name + "s"
	case "testdata":
		return "test-data"
	}
	slug := slugOf(name)
	if slug == "" {
		return "blogger-user"
	}
	if slug[0] >= '0' && slug[0] <= '9' {
		slug = "app-" + slug
	}
	if len(slug) > discovery.MaxServiceLength {
		slug = strings.TrimRight(slug[:discovery.MaxServiceLength], "-")
	}
	if discovery.CheckService(slug) != nil { // well-formed by now, so it is one of the reserved names
		slug = "app-" + slug
	}
	return slug
}

// slugOf keeps ASCII letters and digits, and puts one dash where a word of the input ends: at a change from lower to
// upper case, and at everything else.
func slugOf(name string) string {
	var b strings.Builder
	var last rune
	for _, r := range name {
		switch {
		case r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			if unicode.IsUpper(r) && (unicode.IsLower(last) || unicode.IsDigit(last)) {
				b.WriteByte('-')
			}
			b.WriteRune(unicode.ToLower(r))
		case b.Len() > 0 && last != '-':
			b.WriteByte('-')
			r = '-'
		default:
			r = '-'
		}
		last = r
	}
	return strings.Trim(b.String(), "-")
}
