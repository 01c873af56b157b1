package archtest

import (
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
)

// leaves are the rooms that stand on nothing of ours.
var leaves = []string{"config", "logging", "discovery", "readiness", "certs", "telemetry", "coordination", "devetcd"}

// edges is the import table: which package of framework/ may import which others. Everything may import
// framework/internal/*. A package without a row fails: a new room is a decision. Tests may import more.
func edges() map[string][]string {
	table := map[string][]string{
		"":                        {},
		"config/etcdsource":       {"config"},
		"etcdclient":              {"certs"},
		"auth":                    {"certs", "proto/newsvc/auth/v1"},
		"httpserver":              {"certs"},
		"discovery/etcd":          {"discovery"},
		"discovery/cache":         {"discovery"},
		"discovery/discoverytest": {"discovery"},
		"discovery/faulttest":     {"discovery", "devetcd", "proto/probe/v1"},
		"grpcresolver":            {"discovery"},
		"client":                  {"grpcresolver", "certs"},
		"server":                  {"readiness", "certs"},
		"admin":                   {"httpserver"},
		"gateway":                 {"httpserver"},
	}
	for _, leaf := range leaves {
		table[leaf] = nil
	}
	var product []string // what stack may assemble: all rooms above but those for tests and development
	for room := range maps.Keys(table) {
		if room != "" && room != "devetcd" && !strings.Contains(room, "test") {
			product = append(product, room)
		}
	}
	slices.Sort(product)
	table["stack"] = product
	// The stack as a subject of the fault suite, apart from the suite so that others can be its subjects without it.
	table["discovery/faulttest/newsvc"] = []string{"discovery/faulttest", "discovery/faulttest/newsvc", "discovery", "stack"}
	table["app"] = []string{"stack", "config", "readiness"}
	table["gateway/gatewayfx"] = []string{"gateway", "app"}
	table["apptest"] = []string{"app", "discovery/discoverytest", "devetcd"}
	return table
}

func importRules() []rule {
	return []rule{
		{"framework packages import only what the table allows", checkEdges},
		{"Fx stays at the edge", checkFx},
		{"domain code knows neither framework nor Fx", checkDomain},
		{"no package is named after nothing", checkNames},
	}
}

func checkEdges(files []*file) (found []finding) {
	table := edges()
	for _, f := range goFiles(files) {
		if !f.within("framework") || f.test() {
			continue
		}
		room := strings.TrimPrefix(strings.TrimPrefix(f.dir(), "framework"), "/")
		if room == "internal" || strings.HasPrefix(room, "internal/") {
			room = "internal"
		}
		// What a room keeps in its own internal/ has the room's edges.
		owner, _, _ := strings.Cut(room, "/internal/")
		allowed, known := table[owner]
		if !known && room != "internal" {
			found = append(found, f.at(f.ast.Package, "package %q has no row in the import table of archtest: a new package is a decision, add a row that says what it may import", f.dir()))
			continue
		}
		f.imports(func(spec *ast.ImportSpec, target string) {
			ours, ok := strings.CutPrefix(target, module+"/")
			if !ok {
				return
			}
			to, isRoom := strings.CutPrefix(ours, "framework/") // what lies elsewhere is named by its path in the module
			switch {
			case isRoom && strings.HasPrefix(to, "internal/"):
			case slices.Contains(allowed, to), isRoom && strings.HasPrefix(to, owner+"/internal/"):
			default:
				found = append(found, f.at(spec.Pos(), "%q must not import %q: rooms meet in framework/stack; allowed are %q", f.dir(), target, allowed))
			}
		})
	}
	return found
}

func checkFx(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		if f.within("framework/app", "framework/apptest", "framework/gateway/gatewayfx", "templates") || exampleMain(f) {
			continue
		}
		f.imports(func(spec *ast.ImportSpec, target string) {
			if isFx(target) {
				found = append(found, f.at(spec.Pos(), "%q is imported outside app, apptest, gatewayfx and the mains of examples: write a plain constructor and wire it in framework/app", target))
			}
		})
	}
	return found
}

// exampleMain tells whether the file lies directly in examples/<name>: wiring and the tests of the wiring.
func exampleMain(f *file) bool {
	ok, _ := path.Match("examples/*/*.go", f.path)
	return ok
}

func isFx(target string) bool {
	return target == "go.uber.org/fx" || strings.HasPrefix(target, "go.uber.org/fx/") || target == "go.uber.org/dig"
}

func checkDomain(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		if ok, _ := path.Match("examples/*/internal/*", f.dir()); !ok {
			continue
		}
		f.imports(func(spec *ast.ImportSpec, target string) {
			if isFx(target) || strings.HasPrefix(target, module+"/framework") {
				found = append(found, f.at(spec.Pos(), "domain code imports %q: take what you need as a constructor parameter; without the framework this package must still compile", target))
			}
		})
	}
	return found
}

func checkNames(files []*file) (found []finding) {
	refused := []string{"util", "utils", "common", "core", "helper", "helpers", "types", "misc", "base"}
	for _, f := range goFiles(files) {
		if slices.Contains(refused, f.ast.Name.Name) {
			found = append(found, f.at(f.ast.Name.Pos(), "package name %q says nothing: name the noun it holds", f.ast.Name.Name))
		}
	}
	return found
}
