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

// generator is a plugin that every project with .proto files pins by a tool line in go.mod.
type generator struct{ pkg, module string }

func generators() []generator {
	stubs := "google.golang.org/grpc/cmd/" + protogen.Stubs // a module of its own
	return []generator{{"google.golang.org/protobuf/cmd/" + protogen.Messages, "google.golang.org/protobuf"}, {stubs, stubs}}
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
	for _, g := range generators() {
		pkg, name := g.pkg, path.Base(g.pkg)
		linked := protogen.LinkedVersion(name)
		pinned := slices.ContainsFunc(x.gomod.Tool, func(t *modfile.Tool) bool { return t.Path == pkg })
		version := requiredVersion(x.gomod, g.module)
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

// requiredVersion is that of a module; empty for one that is not required.
func requiredVersion(f *modfile.File, path string) string {
	for _, r := range f.Require {
		if r.Mod.Path == path {
			return r.Mod.Version
		}
	}
	return ""
}
