// Package docs_test keeps the documentation true where a machine can tell: Go code in it stands in a file that is
// compiled, links lead somewhere, make targets and files exist, and the names of the walk through the code are in the
// files that the walk says they are in.
package docs_test

import (
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository. Files are read one by one and not through the go command, so that the test cache knows them.
const root = ".."

// pages returns the Markdown files that people read, parsed.
func pages(t *testing.T) []page {
	t.Helper()
	var all []page
	walk(t, func(file string) {
		if path.Ext(file) == ".md" {
			all = append(all, parse(file, read(t, file)))
		}
	})
	if len(all) < 5 {
		t.Fatalf("only %d pages were found below %q", len(all), root)
	}
	return all
}

// walk calls see with every file of the repository that is its own work, relative to the root.
func walk(t *testing.T, see func(file string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || slices.Contains([]string{"testdata", "third_party", "tools", "data"}, name)) {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, p)
		see(filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func exists(file string) bool {
	_, err := os.Stat(filepath.Join(root, filepath.FromSlash(file)))
	return err == nil
}

// compiled returns the statements of all Go files of the repository.
func compiled(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	walk(t, func(file string) {
		if path.Ext(file) == ".go" {
			all[file] = statements(read(t, file))
		}
	})
	return all
}

func TestGoCodeStandsInAFileThatIsCompiled(t *testing.T) {
	t.Parallel()
	code := compiled(t)
	known := func(part []string) bool {
		for _, whole := range code {
			if contains(whole, part) {
				return true
			}
		}
		return false
	}
	blocks := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.language != "go" {
				continue
			}
			blocks++
			if part := statements(b.text); len(part) == 0 || !known(part) {
				t.Errorf("%s:%d: no Go file of the repository has these lines; show code that is compiled and tested:\n%s", p.path, b.number, b.text)
			}
		}
	}
	if blocks == 0 {
		t.Error("no Go code was found in the documentation")
	}
	if program := program(read(t, "framework/doc.go")); len(statements(program)) < 10 || !known(statements(program)) {
		t.Errorf("framework/doc.go: its program is not that of framework/example_test.go:\n%s", program)
	}
}

// program is the indented code of a package comment.
func program(file string) string {
	var b strings.Builder
	for l := range strings.Lines(file) {
		if code, ok := strings.CutPrefix(l, "//\t"); ok {
			b.WriteString(code)
		}
	}
	return b.String()
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	checked := 0
	for _, p := range all {
		for _, l := range p.prose {
			for _, target := range links(l.text) {
				u, err := url.Parse(target)
				if err != nil {
					t.Errorf("%s:%d: %v", p.path, l.number, err)
					continue
				}
				if u.Host != "" {
					continue // of another site: not ours to keep
				}
				checked++
				if reason := broken(all, p, u); reason != "" {
					t.Errorf("%s:%d: the link to %q is broken: %s", p.path, l.number, target, reason)
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no links were found")
	}
}

// broken says why a link of a page within the repository leads nowhere.
func broken(all []page, from page, u *url.URL) string {
	to := from.path
	if u.Path != "" {
		to = path.Join(path.Dir(from.path), u.Path)
		if !exists(to) {
			return "there is no " + to
		}
	}
	if u.Fragment == "" {
		return ""
	}
	for _, p := range all {
		if p.path == to && p.anchors()[u.Fragment] {
			return ""
		}
	}
	return to + " has no such heading"
}

func TestMakeTargetsExist(t *testing.T) {
	t.Parallel()
	makefile := read(t, "Makefile")
	target := regexp.MustCompile("(?m)(?:^    |`)make ([a-z-]+)")
	checked := 0
	for _, p := range pages(t) {
		for _, l := range p.prose {
			for _, m := range target.FindAllStringSubmatch(l.text, -1) {
				checked++
				if !strings.Contains(makefile, "\n"+m[1]+":") {
					t.Errorf("%s:%d: there is no make target %q", p.path, l.number, m[1])
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no make targets were found")
	}
}

// identifier is what the walk may say of a file: a name, or a method of a type.
var identifier = regexp.MustCompile("`([A-Za-z_]+(?:\\.[A-Za-z_]+)?)`")

// notInFiles are the words in code that the walk uses besides names of the code.
var notInFiles = []string{"draining", "start", "round_robin"}

func TestTheWalkNamesWhatIsInTheFiles(t *testing.T) {
	t.Parallel()
	const walked = "docs/architecture.md"
	checked := 0
	for _, item := range parse(walked, read(t, walked)).items() {
		if !regexp.MustCompile(`^[0-9]+\. `).MatchString(item.text) {
			continue
		}
		var files string
		for _, target := range links(item.text) {
			if path.Ext(target) == ".go" && exists(path.Join("docs", target)) {
				files += read(t, path.Join("docs", target))
			}
		}
		if files == "" {
			continue
		}
		for _, m := range identifier.FindAllStringSubmatch(item.text, -1) {
			name := m[1][strings.LastIndex(m[1], ".")+1:]
			if name == "go" || slices.Contains(notInFiles, name) {
				continue
			}
			checked++
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(files) {
				t.Errorf("%s:%d: %q is in none of the files that are linked there", walked, item.number, name)
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d names were checked; has the form of the walk changed?", checked)
	}
}

func TestFilesThatAreNamedExist(t *testing.T) {
	t.Parallel()
	var files []string
	walk(t, func(file string) { files = append(files, "/"+file) })
	named := regexp.MustCompile(`[A-Za-z0-9_./-]*[a-z0-9_]\.go\b`)
	for _, p := range pages(t) {
		if p.path != "README.md" && p.path != "docs/architecture.md" {
			continue
		}
		for _, l := range p.prose {
			for _, name := range named.FindAllString(l.text, -1) {
				name = strings.TrimLeft(name, "./")
				if name != "main.go" && !slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(f, "/"+name) }) {
					t.Errorf("%s:%d: there is no file %q", p.path, l.number, name)
				}
			}
		}
	}
}

func TestEveryPackageIsOnTheMaps(t *testing.T) {
	t.Parallel()
	architecture, comment := read(t, "docs/architecture.md"), read(t, "framework/doc.go")
	word := regexp.MustCompile(`[a-z]+(/[a-z]+)*`)
	inComment := word.FindAllString(comment, -1)
	walk(t, func(file string) {
		room, ok := strings.CutPrefix(path.Dir(file), "framework/")
		if !ok || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(room+"/", "internal/") || strings.Contains(room, "/internal/") {
			return
		}
		if !strings.Contains(architecture, "](../framework/"+room+")") {
			t.Errorf("docs/architecture.md: package framework/%s is not in its table", room)
		}
		if !slices.Contains(inComment, room) {
			t.Errorf("framework/doc.go: package %s is not named", room)
		}
	})
}
