package names

import (
	"go/token"
	"go/types"
	"slices"

	"github.com/newsvc/newsvc/framework/discovery"
)

// taken reports whether a Go package below internal/ cannot have this name, or would be hidden by something in the
// files of a new project that use it.
func taken(pkg string) bool {
	return token.IsKeyword(pkg) ||
		types.Universe.Lookup(pkg) != nil ||
		pkg == "main" || pkg == "init" || // neither can be imported under its own name
		discovery.CheckService(pkg) != nil || // directories with a special meaning: "internal-service" has the domain "internal"
		slices.Contains(usedByTemplates(), pkg)
}

// usedByTemplates are the identifiers that a new project declares or imports where it imports the package. A test of
// the scaffold compares the list with the rendered files.
func usedByTemplates() []string {
	return []string{
		"app", "conn", "done", "err", "fx", "got", "grpc", "h", "http", "httptest", "insecure", "lc", "lis", "name", "net", "rec", "req", "resp",
		"server", "service", "srv", "strings", "t", "tc", "testing",
	}
}
