package deploy_test

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var checker = regexp.MustCompile(`govulncheck@v[0-9.]+`)

// withDatabase is a line of the workflow that asks a database in place of vuln.go.dev.
func withDatabase(line, database string) string {
	return checker.ReplaceAllString(line, "$0 -db="+database)
}

// vulnerability is an entry of a database in the format of OSV: all versions of a module are concerned, if they call a
// function.
type vulnerability struct{ id, module, pkg, symbol string }

// vulnerabilities is a database in the layout of vuln.go.dev, with just these entries.
func vulnerabilities(t *testing.T, known ...vulnerability) string {
	t.Helper()
	const modified = "2026-01-01T00:00:00Z"
	type object = map[string]any
	dir := t.TempDir()
	put := func(name string, v any) {
		t.Helper()
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), text)
	}
	modules, ids := []object{}, []object{}
	for _, k := range known {
		modules = append(modules, object{"path": k.module, "vulns": []object{{"id": k.id, "modified": modified}}})
		ids = append(ids, object{"id": k.id, "modified": modified})
		put("ID/"+k.id+".json", object{
			"schema_version": "1.3.1", "id": k.id, "modified": modified, "published": modified, "summary": "all of it", "details": "all of it",
			"database_specific": object{"url": "https://pkg.go.dev/vuln/" + k.id},
			"affected": []object{{
				"package": object{"name": k.module, "ecosystem": "Go"}, "ranges": []object{{"type": "SEMVER", "events": []object{{"introduced": "0"}}}},
				"ecosystem_specific": object{"imports": []object{{"path": k.pkg, "symbols": []string{k.symbol}}}},
			}},
		})
	}
	put("index/db.json", object{"modified": modified})
	put("index/modules.json", modules)
	put("index/vulns.json", ids)
	return "file://" + filepath.ToSlash(dir)
}

// refusesVulnerable runs the line of govulncheck with databases that know of a function which the service calls, and of
// one which it does not.
func refusesVulnerable(t *testing.T, p project, line string) {
	t.Helper()
	if line == "" {
		t.Fatal("the workflow does not run govulncheck")
	}
	called := vulnerability{"GO-2026-9001", "google.golang.org/grpc", "google.golang.org/grpc", "NewServer"}
	if out, err := try(t, p.top, nil, "bash", "-ec", withDatabase(line, vulnerabilities(t, called))); err == nil {
		t.Errorf("govulncheck lets a vulnerability pass that the service calls: %s", out)
	} else if !strings.Contains(err.Error(), called.id) || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("govulncheck fails, with %v", err)
	}
	not := vulnerability{"GO-2026-9002", "google.golang.org/grpc", "google.golang.org/grpc/nowhere", "Nothing"}
	if out := command(t, p.top, nil, "bash", "-ec", withDatabase(line, vulnerabilities(t, not))); strings.Contains(out, "Symbol Results") && strings.Contains(out, "Vulnerability #1") {
		t.Errorf("govulncheck says of what the service does not call: %s", out)
	}
}
