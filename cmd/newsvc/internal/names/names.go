// Package names derives everything that newsvc calls after a service from the one name a person types: directories,
// packages, identifiers, the section of its configuration. The rules of the name itself live in framework/discovery;
// what is said about a refused one, and what to type instead, is said here.
package names

import (
	"slices"
	"strings"
	"unicode"

	"github.com/newsvc/newsvc/framework/discovery"
)

// Name is an accepted service name with all that follows from it. "blogger-user" is used as the example.
type Name struct {
	Service      string // blogger-user: registry key, directory, DNS label, image
	Domain       string // blogger_user: the proto directory; without a trailing "-service"
	ProtoPackage string // blogger_user.v1
	ProtoService string // BloggerUserService
	Stubs        string // bloggeruserv1: the Go package of the generated code
	Package      string // bloggeruser: the Go package and directory of the implementation, below internal/
	Section      string // blogger_user: the top-level key of its configuration
	Env          string // BLOGGER_USER__: the prefix of its environment variables
}

// Error says why a name was refused.
type Error struct {
	// Reason is a sentence with the name in quotes.
	Reason string
	// Suggestion is a name close to the refused one that is accepted.
	Suggestion string
}

// Error returns the reason.
func (e *Error) Error() string { return e.Reason }

// Parse accepts exactly the names that [discovery.CheckService] accepts; its error is an [*Error].
func Parse(service string) (Name, error) {
	if err := discovery.CheckService(service); err != nil {
		return Name{}, &Error{Reason: reason(service), Suggestion: Suggest(service)}
	}
	words := strings.Split(service, "-")
	if n := len(words); n > 1 && words[n-1] == "service" {
		words = words[:n-1]
	}
	n := Name{
		Service: service,
		Domain:  strings.Join(words, "_"),
		Stubs:   strings.Join(words, "") + "v1",
		Package: strings.Join(words, ""),
		Env:     strings.ToUpper(strings.ReplaceAll(service, "-", "_")) + "__",
	}
	n.ProtoPackage = n.Domain + ".v1"
	n.ProtoService = pascal(words) + "Service"
	if taken(n.Package) {
		n.Package += "svc"
	}
	n.Section = n.Domain
	if slices.Contains(frameworkSections(), n.Section) {
		n.Section += "_service"
	}
	return n, nil
}

// pascal joins words, each begun in upper case. A letter after a digit begins a word too: protoc-gen-go would write it
// so, and the name in Go would differ from the one in the proto file.
func pascal(words []string) string {
	var b strings.Builder
	for _, w := range words {
		first := true
		for _, r := range w {
			if first {
				r = unicode.ToUpper(r)
			}
			b.WriteRune(r)
			first = unicode.IsDigit(r)
		}
	}
	return b.String()
}

// frameworkSections are the top-level keys that the framework keeps for itself.
func frameworkSections() []string {
	return []string{
		"app", "log", "telemetry", "admin", "etcd", "discovery", "registration", "server", "http", "clients", "auth", "gateway",
	}
}
