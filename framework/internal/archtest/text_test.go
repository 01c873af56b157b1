package archtest

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	readmeLines  = 150
	appLines     = 900
	cliMainLines = 60
)

func textRules() []rule {
	return []rule{
		{"a README is read to its end", checkReadme},
		{"app is wiring only", checkAppSize},
		{"the main of newsvc is small", checkCLIMain},
		{"no paths of somebody's machine", checkMachinePaths},
		{"no notes to self", checkNotes},
	}
}

// lines calls see with each line, counted from 1.
func (f *file) lines(see func(line int, text string)) {
	n := 0
	for text := range strings.Lines(string(f.text)) {
		n++
		see(n, text)
	}
}

func (f *file) count() int { return bytes.Count(f.text, []byte("\n")) }

func checkReadme(files []*file) (found []finding) {
	for _, f := range files {
		if strings.HasPrefix(path.Base(f.path), "README.md") && f.count() > readmeLines {
			found = append(found, finding{f.path, readmeLines + 1, fmt.Sprintf("%d lines, more than %d: move the rest to docs/", f.count(), readmeLines)})
		}
	}
	return found
}

func checkAppSize(files []*file) (found []finding) {
	sum := 0
	for _, f := range goFiles(files) {
		if f.dir() != "framework/app" || f.test() {
			continue
		}
		if sum += f.count(); sum >= appLines {
			found = append(found, finding{f.path, 1, fmt.Sprintf("package app has %d lines up to here and must stay under %d: what is not wiring belongs into a room", sum, appLines)})
		}
	}
	return found
}

func checkCLIMain(files []*file) (found []finding) {
	for _, f := range files {
		if f.path == "cmd/newsvc/main.go" && f.count() > cliMainLines {
			found = append(found, finding{f.path, cliMainLines + 1, fmt.Sprintf("%d lines, more than %d: a concern belongs into a package of cmd/newsvc/internal", f.count(), cliMainLines)})
		}
	}
	return found
}

func checkMachinePaths(files []*file) (found []finding) {
	// Written in halves, so that this file does not break its own rule.
	private := regexp.MustCompile(`(^|[^\w.-])(/wo` + `rk/|/tmp/pl` + `an|/ro` + `ot/)`)
	for _, f := range files {
		f.lines(func(line int, text string) {
			if m := private.FindString(text); m != "" {
				found = append(found, finding{f.path, line, fmt.Sprintf("%q exists on one machine only: use a path relative to the repository or a temporary directory", m)})
			}
		})
	}
	return found
}

func checkNotes(files []*file) (found []finding) {
	note := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	for _, f := range files {
		if f.within("third_party", "tools/buf", "tools/lint") || !slices.Contains([]string{".go", ".md"}, path.Ext(f.path)) && !f.within("templates") {
			continue
		}
		f.lines(func(line int, text string) {
			if m := note.FindString(text); m != "" {
				found = append(found, finding{f.path, line, fmt.Sprintf("%s: do it, drop it, or open an issue; readers cannot tell whether it still holds", m)})
			}
		})
	}
	return found
}
