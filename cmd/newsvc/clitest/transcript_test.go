package clitest_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the transcript in README.md anew")

const readme = "../../../README.md"

// TestTranscript does what README.md says to do in the first ten minutes, and compares what it prints with what is shown there.
func TestTranscript(t *testing.T) {
	s := newShell(t)
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := cut(string(text))
	if !ok {
		t.Fatal("README.md has no marked transcript")
	}
	shown := string(text)[len(before) : len(text)-len(after)]
	var commands []string
	for line := range strings.Lines(shown) {
		if c, ok := strings.CutPrefix(line, "$ "); ok {
			commands = append(commands, strings.TrimSpace(c))
		}
	}
	got := before + s.transcript(shown, commands) + after
	if *update {
		if err := os.WriteFile(readme, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := normal(shown); normal(strings.TrimSuffix(strings.TrimPrefix(got, before), after)) != want {
		t.Errorf("README.md shows\n%s\nand this is what happens:\n%s\nafter a change that is meant: NEWSVC_TEST_CLI=1 go test ./cmd/newsvc/clitest -run Transcript -update", shown, got[len(before):len(got)-len(after)])
	}
}

// cut divides the README around the blocks of the transcript.
func cut(text string) (before, after string, ok bool) {
	begin := strings.Index(text, "<!-- transcript: begin")
	end := strings.Index(text, "<!-- transcript: end -->")
	if begin < 0 || end < begin {
		return "", "", false
	}
	begin += strings.Index(text[begin:], "\n") + 1
	return text[:begin], text[end:], true
}

// transcript runs the commands in two terminals and returns the blocks as they have to be.
func (s *shell) transcript(shown string, commands []string) string {
	t := s.t
	want := []string{
		"go install ./cmd/newsvc", "cd ..", "newsvc create blogger-user && cd blogger-user && newsvc dev",
		`newsvc call blogger-user Ping -d '{"message":"hi"}'`,
	}
	if !slices.Equal(commands, want) {
		t.Fatalf("README.md tells to run %q, and this test knows how to do %q", commands, want)
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	gobin, outside := mkdir(t, filepath.Join(t.TempDir(), "bin")), t.TempDir()
	// As a person has it: the installed command knows the checkout that it is from.
	s.env = append(s.env, "GOFLAGS=", "GOBIN="+gobin, "PATH="+gobin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	s.run(root, "sh", "-c", commands[0])

	d := s.startDevBy(outside, filepath.Join(outside, "blogger-user"), "blogger-user", "sh", "-c", strings.Replace(commands[2], "&& newsvc dev", "&& exec newsvc dev", 1))
	reply := s.run(t.TempDir(), "sh", "-c", commands[3])
	d.waitFor(t, "everything serves")
	if err := d.interrupt(t); err != nil {
		t.Errorf("newsvc dev ended with %v, want exit code 0\n%s", err, d.output())
	}
	replies := map[string]string{commands[2]: toldByNewsvc(d.output()), commands[3]: reply}

	var b strings.Builder
	skip := false
	for line := range strings.Lines(shown) {
		switch c, isCommand := strings.CutPrefix(line, "$ "); {
		case isCommand:
			b.WriteString(line + replies[strings.TrimSpace(c)])
			skip = true
		case strings.HasPrefix(line, "```"):
			b.WriteString(line)
			skip = false
		case !skip:
			b.WriteString(line)
		}
	}
	return b.String()
}

var (
	ofService  = regexp.MustCompile(`^\S+ +\| `)
	checkoutIn = regexp.MustCompile(`=> \S+`)
	inUse      = regexp.MustCompile(` \(127\.0\.0\.1:[0-9]+ is in use\)`)
	numbers    = regexp.MustCompile(`[0-9]+(\.[0-9]+)?( ?(ms|s))?\b`)
)

// toldByNewsvc leaves out what the service logs, and what depends on the machine rather than on newsvc.
func toldByNewsvc(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if ofService.MatchString(line) || strings.HasPrefix(line, "  wait ") {
			continue
		}
		line = checkoutIn.ReplaceAllString(line, "=> ../newsvc")
		b.WriteString(strings.TrimRight(inUse.ReplaceAllString(line, ""), " \n") + "\n")
	}
	return b.String()
}

// normal is a transcript without what differs from run to run.
func normal(text string) string { return numbers.ReplaceAllString(text, "N") }
