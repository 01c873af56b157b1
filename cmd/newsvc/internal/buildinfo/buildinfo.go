// Package buildinfo says what this newsvc is: an installed release or something built from a checkout. The difference
// decides how a new project refers to the framework, so it is read from what the go command writes into each binary,
// never from a constant that somebody has to bump.
package buildinfo

import (
	"runtime"
	"runtime/debug"
)

// Module is the module of the framework and of this command.
const Module = "github.com/newsvc/newsvc"

// Info describes the running binary.
type Info struct {
	// Version of the module: a tag, a pseudo-version, or "(devel)".
	Version string `json:"version"`
	// Sum is the checksum of the module as the go command downloaded it. Only an installed release has one: a checkout
	// that stands on a tag has the same Version and no Sum.
	Sum string `json:"sum,omitempty"`
	// Commit is the revision of the checkout; empty for releases and when the build did not look.
	Commit string `json:"commit,omitempty"`
	// Dirty reports that the checkout had changes.
	Dirty bool `json:"dirty,omitempty"`
	// Go is the release the binary was built with, Platform its system and architecture.
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Release reports whether the binary was installed from a published version, which others can download too.
func (i Info) Release() bool { return i.Sum != "" }

// Read describes this binary.
func Read() Info {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		b = &debug.BuildInfo{}
	}
	return From(b)
}

// From describes the binary that b was read from.
func From(b *debug.BuildInfo) Info {
	i := Info{Version: "(devel)", Go: b.GoVersion, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if i.Go == "" {
		i.Go = runtime.Version()
	}
	main := &b.Main
	for _, dep := range b.Deps { // another main module that embeds the command
		if dep.Path == Module {
			main = dep
		}
	}
	if main.Replace == nil && main.Path == Module {
		if main.Version != "" {
			i.Version = main.Version
		}
		i.Sum = main.Sum
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.modified":
			i.Dirty = s.Value == "true"
		}
	}
	return i
}
