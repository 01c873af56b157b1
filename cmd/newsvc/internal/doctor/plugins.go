package doctor

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// generators are the packages of the plugins that every project with .proto files pins by tool lines in go.mod.
func generators() []string {
	return []string{"google.golang.org/protobuf/cmd/" + protogen.Messages, "google.golang.org/grpc/cmd/" + protogen.Stubs}
}

// plugins looks for the tool lines: without them everybody's generate writes what happens to be installed.
func (x *examination) plugins(context.Context) []Finding {
	if x.gomod == nil || x.place.Kind == workspace.Checkout {
		return nil // the framework's own repository pins its tools in tools/gen
	}
	if info, err := os.Stat(filepath.Join(x.place.Root, "proto")); err != nil || !info.IsDir() {
		return nil
	}
	var found []Finding
	var said []string
	for _, pkg := range generators() {
		name := path.Base(pkg)
		linked := protogen.LinkedVersion(name)
		pinned := slices.ContainsFunc(x.gomod.Tool, func(t *modfile.Tool) bool { return t.Path == pkg })
		version := requiredVersion(x.gomod, pkg)
		switch {
		case !pinned:
			found = append(found, Finding{
				Level: Warn, What: "go.mod does not pin " + name + " by a tool line, so generated code depends on who generates it",
				At: filepath.Join(x.place.Root, "go.mod"), Fix: "go get -tool " + pkg + "@" + linked,
			})
		case version == "":
			found = append(found, Finding{
				Level: Fail, What: "go.mod has a tool line for " + name + " and requires no module that holds it",
				At: filepath.Join(x.place.Root, "go.mod"), Fix: "go get -tool " + pkg + "@" + linked,
			})
		case version == linked:
			said = append(said, fmt.Sprintf("%s %s, in process", name, version))
		default:
			said = append(said, fmt.Sprintf("%s %s by go tool (linked: %s)", name, version, linked))
		}
	}
	if found == nil {
		return one(OK, "%s", strings.Join(said, "; "))
	}
	return found
}

// requiredVersion is that of the module which holds a package, by the longest module path; empty for none.
func requiredVersion(f *modfile.File, pkg string) string {
	longest, version := "", ""
	for _, r := range f.Require {
		if (pkg == r.Mod.Path || strings.HasPrefix(pkg, r.Mod.Path+"/")) && len(r.Mod.Path) > len(longest) {
			longest, version = r.Mod.Path, r.Mod.Version
		}
	}
	return version
}
