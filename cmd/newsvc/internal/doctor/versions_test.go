package doctor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
	"github.com/newsvc/newsvc/templates"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVersionsThatDiffer(t *testing.T) {
	t.Parallel()
	release := buildinfo.Info{Version: "v0.5.0", Sum: "h1:x"}
	for name, tc := range map[string]struct {
		build    buildinfo.Info
		required string
		level    doctor.Level
		fix      string
	}{
		"the same release":                {release, "v0.5.0", doctor.OK, ""},
		"the same but for fixes":          {release, "v0.5.3", doctor.OK, ""},
		"an older framework":              {release, "v0.4.0", doctor.Warn, "go install github.com/newsvc/newsvc/cmd/newsvc@v0.4.0"},
		"a newer framework":               {release, "v0.6.0", doctor.Warn, "go install github.com/newsvc/newsvc/cmd/newsvc@v0.6.0"},
		"newsvc of a checkout, any other": {buildinfo.Info{Version: "(devel)"}, "v0.4.0", doctor.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t, "default", "127.0.0.1:1")
			o.Build = tc.build
			write(t, o.Dir, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26.0\n\nrequire github.com/newsvc/newsvc " + tc.required + "\n"})
			r := run(t, o)
			if got := level(r, "versions"); got != tc.level {
				t.Fatalf("versions is %q, want %q, in %+v", got, tc.level, r)
			}
			if tc.fix == "" {
				return
			}
			if f := finding(t, r, "versions"); f.Fix != tc.fix || f.At != filepath.Join(o.Dir, "go.mod")+":5" {
				t.Errorf("it says %+v, want %s", f, tc.fix)
			}
		})
	}
}

func TestAnotherCheckoutThanNewsvcIsOf(t *testing.T) {
	t.Parallel()
	o := options(t, "default", "127.0.0.1:1")
	write(t, o.Dir, map[string]string{
		"my framework/go.mod": "module github.com/newsvc/newsvc\n\ngo 1.26.0\n",
		"x/go.mod":            "module example.com/x\n\ngo 1.26.0\n\nrequire github.com/newsvc/newsvc v0.0.0\n\nreplace github.com/newsvc/newsvc => \"../my framework\"\n",
	})
	framework := filepath.Join(o.Dir, "my framework")
	o.Dir = filepath.Join(o.Dir, "x")
	if f := finding(t, run(t, o), "versions"); f.Fix != "go install -C '"+framework+"' ./cmd/newsvc" {
		t.Errorf("it says %+v", f)
	}
}

func TestATemplateOfALaterNewsvc(t *testing.T) {
	t.Parallel()
	for version, want := range map[int]doctor.Level{templates.Version: doctor.OK, templates.Version + 1: doctor.Fail} {
		o := options(t, "default", "127.0.0.1:1")
		o.Build = buildinfo.Info{Version: "v0.5.0", Sum: "h1:x"}
		write(t, o.Dir, map[string]string{
			"go.mod":                "module example.com/x\n\ngo 1.26.0\n\nrequire github.com/newsvc/newsvc v0.5.0\n",
			"newsvc.yaml":           "kind: service\nname: x\n",
			".newsvc/template.json": fmt.Sprintf(`{"version": %d}`, version),
		})
		r := run(t, o)
		if want == doctor.OK {
			if got := level(r, "versions"); got != want {
				t.Errorf("template %d: versions is %q in %+v", version, got, r)
			}
			continue
		}
		if f := finding(t, r, "versions"); f.Level != want || f.Fix != "go install github.com/newsvc/newsvc/cmd/newsvc@latest" {
			t.Errorf("template %d: %+v", version, f)
		}
	}
}
