package addclient

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// policy are the settings of a callee that people change first, with their defaults. A test compares them with those of
// package client.
func policy() []string {
	return []string{
		`timeout: "5s"               # longest unary call, repeats included`,
		`balancer: round_robin       # or least_request, ring_hash, weighted_round_robin, pick_first`,
		`min_instances: 0            # the start waits for this many instances`,
		`retry:`,
		`  max_attempts: 4           # of methods without side effects; 1: none is repeated`,
	}
}

// editConfig adds the policy as a comment: the defaults hold, and the file shows what can be set. A file that is absent
// stays absent.
func (a *addition) editConfig() error {
	name := filepath.Join(a.place.ServiceDir, "config.yaml")
	text, err := a.set.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var before any
	if err := yaml.Unmarshal(text, &before); err != nil {
		return &problem.Error{What: a.shown(name) + " is no YAML", At: strings.TrimPrefix(err.Error(), "yaml: "), Fix: "mend it, then: newsvc add client " + a.Name, Err: err}
	}
	if hasPolicy(text, before, a.Name) {
		return nil
	}
	out := withPolicy(text, a.Name)
	var after any
	if err := yaml.Unmarshal(out, &after); err != nil || !reflect.DeepEqual(before, after) {
		return nil //nolint:nilerr // the file would not mean what it meant: a comment is not worth that
	}
	return a.write(name, out, "the policy of its calls, as a comment")
}

// hasPolicy says whether clients has an entry for the callee, as a setting or as a comment.
func hasPolicy(text []byte, parsed any, callee string) bool {
	if all, ok := parsed.(map[string]any); ok {
		if clients, ok := all["clients"].(map[string]any); ok {
			if _, ok := clients[callee]; ok {
				return true
			}
		}
	}
	entry := regexp.MustCompile(`^(#[ \t]{2,}|[ \t]+(#[ \t]*)?)` + regexp.QuoteMeta(callee) + `:`)
	below := false
	for line := range strings.Lines(string(text)) {
		switch {
		case clientsLine.MatchString(line):
			below = true
		case topLine.MatchString(line):
			below = false
		case below && entry.MatchString(line):
			return true
		}
	}
	return false
}

// Lines of a config.yaml where entries of callees begin.
var (
	clientsKey      = regexp.MustCompile(`(?m)^clients:[ \t]*(#.*)?\r?\n`)
	clientsComment  = regexp.MustCompile(`(?m)^# clients:[ \t]*\r?\n`)
	clientsLine     = regexp.MustCompile(`^(# )?clients:`)
	topLine         = regexp.MustCompile(`^(# ?)?[^\s#]`)
	clientsIndented = regexp.MustCompile(`(?m)^clients:[ \t]*(?:#.*)?\r?\n(?:[ \t]*(?:#.*)?\r?\n)*([ \t]+)[^\s#]`)
)

// withPolicy puts the comment first below clients:, which may be a comment itself, or with such a line at the end.
func withPolicy(text []byte, callee string) []byte {
	eol := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		eol = "\r\n"
	}
	entry := func(before string) string {
		lines := []string{before + callee + ":" + eol}
		for _, l := range policy() {
			lines = append(lines, before+"  "+l+eol)
		}
		return strings.Join(lines, "")
	}
	if at := clientsKey.FindIndex(text); at != nil {
		before := "# "
		if m := clientsIndented.FindSubmatch(text); m != nil {
			before = string(m[1]) + before
		} else {
			before = "  " + before
		}
		return insertAt(text, at[1], entry(before))
	}
	if at := clientsComment.FindIndex(text); at != nil {
		return insertAt(text, at[1], entry("#   "))
	}
	end := ""
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		end = eol
	}
	return insertAt(text, len(text), end+eol+"# clients:"+eol+entry("#   "))
}

func insertAt(text []byte, at int, added string) []byte {
	return bytes.Join([][]byte{text[:at], []byte(added), text[at:]}, nil)
}
