package clitest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/templates"
)

// fixLine is how doctor prints a remedy.
var fixLine = regexp.MustCompile(`(?m)^ +fix: (.*)$`)

// TestDoctorInstallsTheNewsvcThatFits pastes what doctor says about versions that do not fit together: releases are installed from
// a proxy that is a directory, a checkout by the go command.
func TestDoctorInstallsTheNewsvcThatFits(t *testing.T) {
	s := newShell(t)
	top := t.TempDir()
	proxy, gobin, work := filepath.Join(top, "proxy"), mkdir(t, filepath.Join(top, "my bin")), mkdir(t, filepath.Join(top, "work"))
	source := copied(t, filepath.Join(top, "my framework"))
	published(t, proxy, source, "v0.4.0")
	later := filepath.Join(source, "templates", "templates.go")
	text, err := os.ReadFile(later)
	if err != nil {
		t.Fatal(err)
	}
	version := func(n int) string { return fmt.Sprintf("const Version = %d\n", n) }
	raised := strings.Replace(string(text), version(templates.Version), version(templates.Version+1), 1)
	if raised == string(text) {
		t.Fatal("templates have no version to raise")
	}
	write(t, later, raised)
	published(t, proxy, source, "v0.5.0")
	write(t, later, string(text))

	s.env = append(s.env, "GOFLAGS=-modcacherw -trimpath -buildvcs=false", "GOMODCACHE="+filepath.Join(top, "mod"), "GOSUMDB=off", "GONOSUMDB=", "GOTOOLCHAIN=local", "GOBIN="+gobin,
		"PATH="+gobin+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"GOPROXY="+fileURL(proxy)+","+fileURL(filepath.Join(goEnv(t, "GOMODCACHE"), "cache", "download"))+","+goEnv(t, "GOPROXY"))
	install := "go install " + buildinfo.Module + "/cmd/newsvc@"
	s.run(work, "sh", "-c", install+"v0.4.0")
	uses := func(framework string, template int) {
		write(t, filepath.Join(work, "go.mod"), "module example.com/x\n\ngo 1.26.0\n\nrequire "+buildinfo.Module+" "+framework+"\n")
		write(t, filepath.Join(work, "newsvc.yaml"), "kind: service\nname: x\n")
		write(t, filepath.Join(work, ".newsvc", "template.json"), fmt.Sprintf(`{"version": %d}`, template))
	}

	t.Log("a framework that is newer")
	uses("v0.5.0", templates.Version+1)
	s.fixed(work, "newsvc is v0.4.0, the framework of this project v0.5.0", install+"v0.5.0")
	t.Log("one that is older")
	uses("v0.4.0", templates.Version)
	s.fixed(work, "newsvc is v0.5.0, the framework of this project v0.4.0", install+"v0.4.0")
	t.Log("a template that is newer")
	write(t, filepath.Join(work, "go.mod"), "module example.com/x\n\ngo 1.26.0\n")
	uses2 := fmt.Sprintf("a newer newsvc wrote this project: template %d, this one knows up to %d", templates.Version+1, templates.Version)
	write(t, filepath.Join(work, ".newsvc", "template.json"), fmt.Sprintf(`{"version": %d}`, templates.Version+1))
	s.fixed(work, uses2, install+"latest")
	t.Log("a checkout")
	write(t, filepath.Join(work, "go.mod"), "module example.com/x\n\ngo 1.26.0\n\nrequire "+buildinfo.Module+" v0.0.0\n\nreplace "+buildinfo.Module+" => \"../my framework\"\n")
	write(t, filepath.Join(work, ".newsvc", "template.json"), fmt.Sprintf(`{"version": %d}`, templates.Version))
	// newsvc remembers the path of its checkout; what it depends on is compiled already, for this module cache.
	s.env = append(s.env, "GOFLAGS=-buildvcs=false", "GOMODCACHE="+goEnv(t, "GOMODCACHE"))
	s.fixed(work, "newsvc is of release v0.5.0, this project uses the framework in "+source, "go install -C '"+source+"' ./cmd/newsvc")
}

// fixed wants a finding of versions, pastes its remedy, and wants it gone.
func (s *shell) fixed(dir, says, fix string) {
	t := s.t
	t.Helper()
	out, err := s.try(dir, "sh", "-c", "newsvc doctor || test $? = 4")
	if err != nil {
		t.Fatal(err)
	}
	_, at, found := strings.Cut(out, says)
	m := fixLine.FindStringSubmatch(at)
	if !found || m == nil || m[1] != fix {
		t.Fatalf("want %q with the remedy %s in\n%s", says, fix, out)
	}
	s.run(dir, "sh", "-c", m[1])
	after := s.run(dir, "sh", "-c", "newsvc doctor || test $? = 4")
	if !regexp.MustCompile(`(?m)^(ok  |skip)  versions `).MatchString(after) || regexp.MustCompile(`(?m)^(FAIL|warn)  versions `).MatchString(after) {
		t.Errorf("after %s doctor says\n%s", fix, after)
	}
}

// copied is a copy of what newsvc is built from.
func copied(t *testing.T, to string) string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cmd", "framework", "proto", "templates", "third_party"} {
		if err := os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum", "LICENSE", ".golangci.yml"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, name), string(text))
	}
	return to
}

// published adds a version to the module proxy in dir.
func published(t *testing.T, dir, source, version string) {
	t.Helper()
	at := mkdir(t, filepath.Join(dir, filepath.FromSlash(buildinfo.Module), "@v"))
	archive, err := os.Create(filepath.Join(at, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if err := zip.CreateFromDir(archive, module.Version{Path: buildinfo.Module, Version: version}, source); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	list, _ := os.ReadFile(filepath.Join(at, "list"))
	write(t, filepath.Join(at, "list"), string(list)+version+"\n")
	write(t, filepath.Join(at, version+".mod"), string(mod))
	write(t, filepath.Join(at, version+".info"), fmt.Sprintf(`{"Version":%q}`, version))
}
