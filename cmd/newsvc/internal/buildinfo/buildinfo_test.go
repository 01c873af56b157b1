package buildinfo_test

import (
	"runtime/debug"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFrom(t *testing.T) {
	t.Parallel()
	module := func(version, sum string) debug.Module {
		return debug.Module{Path: buildinfo.Module, Version: version, Sum: sum}
	}
	dep := module("v0.4.0", "h1:x")
	replaced := debug.Module{Path: buildinfo.Module, Version: "v0.4.0", Replace: &debug.Module{Path: "../newsvc"}}
	for _, tc := range []struct {
		name    string
		in      debug.BuildInfo
		version string
		release bool
		commit  string
		dirty   bool
	}{
		{"installed", debug.BuildInfo{Main: module("v0.4.0", "h1:x")}, "v0.4.0", true, "", false},
		{"checkout on a tag", debug.BuildInfo{Main: module("v0.3.0", "")}, "v0.3.0", false, "", false},
		{
			"dirty checkout", debug.BuildInfo{
				Main:     module("v0.3.1-0.20261122061202-7bc66bb5916a+dirty", ""),
				Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "7bc66bb5916a"}, {Key: "vcs.modified", Value: "true"}},
			},
			"v0.3.1-0.20261122061202-7bc66bb5916a+dirty", false, "7bc66bb5916a", true,
		},
		{"no version control", debug.BuildInfo{Main: module("(devel)", "")}, "(devel)", false, "", false},
		{"inside another program", debug.BuildInfo{Main: debug.Module{Path: "example.com/x", Version: "v9.0.0", Sum: "h1:y"}, Deps: []*debug.Module{&dep}}, "v0.4.0", true, "", false},
		{"replaced in another program", debug.BuildInfo{Main: debug.Module{Path: "example.com/x", Version: "v9.0.0", Sum: "h1:y"}, Deps: []*debug.Module{&replaced}}, "(devel)", false, "", false},
		{"nothing known", debug.BuildInfo{}, "(devel)", false, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := buildinfo.From(&tc.in)
			if got.Version != tc.version || got.Release() != tc.release || got.Commit != tc.commit || got.Dirty != tc.dirty {
				t.Errorf("From = %+v, want version %s, release %t, commit %q, dirty %t", got, tc.version, tc.release, tc.commit, tc.dirty)
			}
		})
	}
}

func TestReadNamesGo(t *testing.T) {
	t.Parallel()
	if got := buildinfo.Read(); !strings.HasPrefix(got.Go, "go") || !strings.Contains(got.Platform, "/") {
		t.Errorf("Read = %+v, want a Go release and a platform", got)
	}
}
