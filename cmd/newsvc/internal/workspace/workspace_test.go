package workspace_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
)

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		full := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFind(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"fw/go.mod":                        "module github.com/newsvc/newsvc\n",
		"fw/examples/web/newsvc.yaml":      "kind: service\nname: web\n",
		"fw/examples/web/internal/x.go":    "package x\n",
		"ws/go.mod":                        "module example.com/ws\n",
		"ws/newsvc.yaml":                   "kind: workspace\n",
		"ws/services/billing/newsvc.yaml":  "kind: service\nname: billing\n",
		"ws/services/billing/internal/x":   "",
		"ws/tools/go.mod":                  "module example.com/ws/tools\n",
		"other/go.mod":                     "module example.com/other\n",
		"other/cmd/x.go":                   "package x\n",
		"other/loose/newsvc.yaml":          "kind: service\nname: loose\n",
		"alone/go.mod":                     "module example.com/alone\n",
		"alone/newsvc.yaml":                "kind: service\nname: alone\n",
		"alone/internal/x.go":              "package x\n",
		"bare/newsvc.yaml":                 "kind: workspace\n",
		"lost/newsvc.yaml":                 "kind: service\nname: lost\n",
		"empty/x":                          "",
		"ws/proto/billing/v1/placeholder":  "",
		"fw/proto/user/v1/placeholder":     "",
		"alone/proto/alone/v1/placeholder": "",
	})
	for _, tc := range []struct {
		dir, kind, at, module, service, serviceDir, services, proto string
	}{
		{"fw", "checkout", "fw", "github.com/newsvc/newsvc", "", "", "fw/examples", "fw/proto"},
		{"fw/examples/web/internal", "checkout", "fw", "github.com/newsvc/newsvc", "web", "fw/examples/web", "fw/examples", "fw/proto"},
		{"ws", "workspace", "ws", "example.com/ws", "", "", "ws/services", "ws/proto"},
		{"ws/services/billing/internal", "workspace", "ws", "example.com/ws", "billing", "ws/services/billing", "ws/services", "ws/proto"},
		{"ws/tools", "module", "ws/tools", "example.com/ws/tools", "", "", "ws/tools", "ws/tools/proto"},
		{"other/cmd", "module", "other", "example.com/other", "", "", "other/cmd", "other/proto"},
		{"other/loose", "module", "other", "example.com/other", "loose", "other/loose", "other/loose", "other/loose/proto"},
		{"alone/internal", "service", "alone", "example.com/alone", "alone", "alone", "alone/internal", "alone/proto"},
		{"bare", "workspace", "bare", "", "", "", "bare/services", "bare/proto"},
		{"lost", "service", "lost", "", "lost", "lost", "lost", "lost/proto"},
		{"empty", "nothing", "", "", "", "", "empty", "proto"},
	} {
		t.Run(tc.dir, func(t *testing.T) {
			t.Parallel()
			p, err := workspace.Find(filepath.Join(root, tc.dir))
			if err != nil {
				t.Fatal(err)
			}
			rel := func(dir string) string {
				return strings.TrimPrefix(strings.TrimPrefix(filepath.ToSlash(dir), filepath.ToSlash(root)), "/")
			}
			got := []string{string(p.Kind), rel(p.Root), p.Module, p.ServiceName, rel(p.ServiceDir), rel(p.ServicesDir()), rel(p.ProtoDir(p.ServiceDir))}
			want := []string{tc.kind, tc.at, tc.module, tc.service, tc.serviceDir, tc.services, tc.proto}
			if !slices.Equal(got, want) {
				t.Errorf("Find says %q,\nwant      %q", got, want)
			}
		})
	}
	p, err := workspace.Find(filepath.Join(root, "ws", "services"))
	if err != nil || p.Import(filepath.Join(root, "ws", "proto")) != "example.com/ws/proto" || p.Import(root) != "" {
		t.Errorf("imports are %q and %q, %v", p.Import(filepath.Join(root, "ws", "proto")), p.Import(root), err)
	}
}

func TestMarkerThatSaysNothing(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"kind": "kind: servise\n", "yaml": "kind: [\n", "empty": ""} {
		root := tree(t, map[string]string{"newsvc.yaml": text, "below/x": ""})
		_, err := workspace.Find(filepath.Join(root, "below"))
		var p *problem.Error
		if !errors.As(err, &p) || p.ExitCode() != problem.Environment || !strings.Contains(p.At, filepath.Join(root, "newsvc.yaml")) || p.Fix == "" {
			t.Errorf("%s: Find = %v, want exit 3, the file and a remedy", name, err)
		}
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"newsvc.yaml":                   "kind: workspace\n",
		"services/web/newsvc.yaml":      "kind: service\nname: web\ndev:\n  replicas: 3\n",
		"services/a/newsvc.yaml":        "kind: service\nname: a\n",
		"copy/web/newsvc.yaml":          "kind: service\nname: web\n",
		"templates/x/newsvc.yaml":       "kind: [\n",
		".newsvc/x/newsvc.yaml":         "kind: [\n",
		"services/testdata/newsvc.yaml": "kind: [\n",
	})
	found, err := workspace.Services(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.Name+" "+strings.TrimPrefix(filepath.ToSlash(f.Dir), filepath.ToSlash(root)))
	}
	if want := []string{"a /services/a", "web /copy/web", "web /services/web"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if n := found[2].Marker.Dev.Replicas; n == nil || *n != 3 {
		t.Errorf("web has %v replicas, want 3", n)
	}
}
