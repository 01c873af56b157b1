package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/cli"
)

const repository = "../../../../"

// documents are the pages and templates in which people read command lines.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "examples/*/*.md", "templates/*/*.md.tmpl", "bench/*.md"} {
		files, err := filepath.Glob(repository + pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %q, %v", pattern, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all[strings.TrimPrefix(filepath.ToSlash(file), repository)] = string(text)
		}
	}
	return all
}

// commandLine is one in a page: in backticks, or a line of its own, with a prompt, an indent or neither.
var commandLine = regexp.MustCompile("(?m)(?:`|^\\$ |^ *)newsvc( [^`\n#]*)?")

// TestCommandLinesInTheDocumentation wants every command line that people may copy to be one that newsvc knows.
func TestCommandLinesInTheDocumentation(t *testing.T) {
	t.Parallel()
	checked := 0
	for file, text := range documents(t) {
		for _, m := range commandLine.FindAllStringSubmatch(text, -1) {
			args := flagsAndCommands(m[1])
			if len(args) == 0 {
				continue
			}
			if strings.HasPrefix(m[0], "newsvc") && !strings.HasPrefix(args[0], "-") && !known(args[0]) {
				continue // a line of prose that begins so
			}
			if !strings.HasPrefix(args[0], "-") && !known(args[0]) {
				t.Errorf("%s: newsvc %s: there is no such command", file, strings.Join(args, " "))
				continue
			}
			checked++
			l := line{file: file, args: args}
			if _, flags, _ := l.of(); flags != nil {
				t.Errorf("%s: newsvc %s: %v", file, strings.Join(args, " "), flags)
			}
		}
	}
	if checked < 60 {
		t.Errorf("%d command lines were found", checked)
	}
}

func known(command string) bool {
	if command == "help" {
		return true
	}
	cmd, _, err := cli.NewRoot(nil).Find([]string{command})
	return err == nil && cmd.HasParent()
}

// flagsAndCommands are the words up to what a shell or a reader would take for something else.
func flagsAndCommands(text string) []string {
	var out []string
	for word := range strings.FieldsSeq(text) {
		if slices.Contains([]string{"&&", "||", "|", ";", ">", "...", "—", "(", "…"}, word) || strings.ContainsAny(word, "[]()|") {
			break
		}
		out = append(out, strings.Trim(word, `'",;:.`))
	}
	return out
}

// TestWalkThroughIsRun compares the walk-through with the script that runs it.
func TestWalkThroughIsRun(t *testing.T) {
	t.Parallel()
	page := documents(t)["docs/tool.md"]
	_, page, _ = strings.Cut(page, "```console\n")
	page, _, _ = strings.Cut(page, "```")
	text, err := os.ReadFile("../../testdata/script/walkthrough.txtar")
	if err != nil {
		t.Fatal(err)
	}
	rest := strings.Split(string(txtar.Parse(text).Comment), "\n")
	lines := 0
	for l := range strings.Lines(page) {
		command := strings.TrimSpace(strings.TrimPrefix(l, "$ "))
		if command == "go test ./..." {
			continue // go vet in the script: whole projects are tested by make test-cli
		}
		at := slices.IndexFunc(rest, func(s string) bool { return strings.TrimPrefix(s, "exec ") == command })
		if at < 0 {
			t.Fatalf("the script does not run %q, or not in its turn", command)
		}
		rest = rest[at+1:]
		lines++
	}
	if lines < 9 {
		t.Errorf("%d commands were compared", lines)
	}
}
