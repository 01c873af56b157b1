package clitest_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
)

// TestInstalledThenOffline installs newsvc as a release, from a proxy that is a directory, into an empty module cache. With
// downloads forbidden from then on, services are created and tested: what they need has to be part of what the command is.
func TestInstalledThenOffline(t *testing.T) {
	s := newShell(t)
	const version = "v0.4.0-test.1"
	top := t.TempDir()
	release(t, filepath.Join(top, "proxy"), version)
	gobin, known := mkdir(t, filepath.Join(top, "bin")), goEnv(t, "GOMODCACHE")
	s.env = append(s.env,
		"GOMODCACHE="+filepath.Join(top, "mod"), "GOFLAGS=-modcacherw -trimpath", "GOSUMDB=off", "GOBIN="+gobin, "GONOSUMDB=", "GOTOOLCHAIN=local",
		// Dependencies come from the module cache of this machine, which is laid out as a proxy.
		"GOPROXY="+fileURL(filepath.Join(top, "proxy"))+","+fileURL(filepath.Join(known, "cache", "download"))+","+goEnv(t, "GOPROXY"),
	)
	work := mkdir(t, filepath.Join(top, "work"))
	s.run(work, "go", "install", buildinfo.Module+"/cmd/newsvc@"+version)
	s.env = append(s.env, "GOPROXY=off")
	newsvc := filepath.Join(gobin, "newsvc")
	if got := s.run(work, newsvc, "version"); !strings.HasPrefix(got, "newsvc "+version+"\n") {
		t.Errorf("newsvc version says\n%s", got)
	}
	s.run(work, newsvc, "create", "blogger-user")
	s.run(work, newsvc, "create", "web", "--kind", "gateway")
	for _, name := range []string{"blogger-user", "web"} {
		dir := filepath.Join(work, name)
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err != nil || bytes.Contains(mod, []byte("replace")) {
			t.Errorf("go.mod of %s refers to a checkout, %v:\n%s", name, err, mod)
		}
		s.run(dir, "go", "vet", "./...")
		s.run(dir, "go", "test", "./...")
	}
	s.run(filepath.Join(work, "blogger-user"), newsvc, "generate", "--check")
}

func fileURL(dir string) string {
	return "file://" + filepath.ToSlash(dir)
}

// release makes dir a module proxy that has this checkout as a version.
func release(t *testing.T, dir, version string) {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	at := mkdir(t, filepath.Join(dir, filepath.FromSlash(buildinfo.Module), "@v"))
	var archive bytes.Buffer
	if err := zip.CreateFromDir(&archive, module.Version{Path: buildinfo.Module, Version: version}, root); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(at, version+".zip"), archive.String())
	write(t, filepath.Join(at, version+".mod"), string(mod))
	write(t, filepath.Join(at, version+".info"), fmt.Sprintf(`{"Version":%q}`, version))
	write(t, filepath.Join(at, "list"), version+"\n")
}
