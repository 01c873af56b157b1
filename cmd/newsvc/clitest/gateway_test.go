package clitest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// TestGateway takes an HTTP edge from nothing to an answered request and to its end.
func TestGateway(t *testing.T) {
	s := newShell(t)
	top := t.TempDir()
	s.run(top, "newsvc", "create", "web", "--kind", "gateway")
	project := filepath.Join(top, "web")
	s.run(project, "git", "init", "-q")
	s.run(project, "git", "add", "-A")
	s.run(project, "git", "commit", "-q", "-m", "created")
	s.run(project, "go", "vet", "./...")
	s.run(project, "golangci-lint", "run", "--allow-parallel-runners", "./...")
	s.run(project, "go", append(append([]string{"test"}, race(t)...), "./...")...)

	addr, keys := etcd(t)
	d := s.startDev(project, "web", "--etcd", addr)
	url := "http://" + httpOf(t, project, "web") + "/v1/ping?message=hi"
	if code, body := get(t, url); code != http.StatusOK || strings.TrimSpace(body) != `{"message":"hi"}` {
		t.Errorf("GET %s gives status %d, %s", url, code, body)
	}
	if got := keys("web"); len(got) != 0 {
		t.Errorf("%q are registered; an HTTP edge is nobody's callee", got)
	}
	if err := d.interrupt(t); err != nil {
		t.Errorf("newsvc dev ended with %v, want exit code 0\n%s", err, d.output())
	}
	if resp, err := try(t, url); err == nil {
		_ = resp.Body.Close()
		t.Errorf("%s is still answered after the stop", url)
	}
	if changed := s.run(project, "git", "status", "--porcelain"); changed != "" {
		t.Errorf("git sees changes after test, lint, dev and stop:\n%s", changed)
	}
}

// httpOf is where newsvc dev serves the HTTP of a service.
func httpOf(t *testing.T, root, service string) string {
	t.Helper()
	var record devrecord.Record
	text, err := os.ReadFile(filepath.Join(root, ".newsvc", "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &record); err != nil || len(record.Services[service].Instances) != 1 || record.Services[service].Instances[0].HTTP == "" {
		t.Fatalf("dev.json names no HTTP address of %s: %v\n%s", service, err, text)
	}
	return record.Services[service].Instances[0].HTTP
}

// try asks on a connection of its own.
func try(t *testing.T, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return client.Do(req)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := try(t, url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
