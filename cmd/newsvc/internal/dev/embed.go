package dev

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// embed is a pattern of go:embed: a file that comes to match it is built into the program, without a change of any other.
type embed struct {
	dir     string // of the package
	pattern string
	all     bool // hidden files, too
}

func newEmbed(dir, pattern string) embed {
	rest, all := strings.CutPrefix(pattern, "all:")
	return embed{dir, path.Clean(rest), all}
}

// has reports whether a file is embedded, because it matches or lies below what does.
func (e embed) has(file string) bool {
	rel, err := filepath.Rel(e.dir, file)
	if err != nil {
		return false
	}
	parts := strings.Split(filepath.ToSlash(rel), "/")
	for i := range parts {
		if ok, _ := path.Match(e.pattern, path.Join(parts[:i+1]...)); ok || e.pattern == "." {
			return !slices.ContainsFunc(parts[i+1:], func(name string) bool { return !e.enters(name) })
		}
	}
	return false
}

// enters reports whether what lies below a directory is embedded with it.
func (e embed) enters(name string) bool {
	return e.all || !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_")
}

// root is the directory below which everything lies that can match.
func (e embed) root() string {
	dir := e.dir
	for name := range strings.SplitSeq(e.pattern, "/") {
		if strings.ContainsAny(name, `*?[\`) {
			return dir
		}
		dir = filepath.Join(dir, name)
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return filepath.Dir(dir)
	}
	return dir
}
