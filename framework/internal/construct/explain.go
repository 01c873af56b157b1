package construct

import (
	"errors"
	"regexp"
	"strings"
)

var (
	// located is how the container names a function.
	located = regexp.MustCompile(`(?:function )?"(?:[^"]*/)?([^"/]+)"\.(\S+) \(([^()]*/)?([^()/]+:\d+)\)`)
	told    = regexp.MustCompile(`^(missing dependencies for|received non-nil error from|cannot provide function|panic:|this function introduces a cycle|cycle detected)`)
	from    = regexp.MustCompile(`(?s) from:\n.*?Failed: `)
	missing = regexp.MustCompile(`^missing dependencies for (\S+) \([^)]*\): missing types?: (.*)$`)
	twice   = regexp.MustCompile(`^cannot provide (\S+ \([^)]*\)): cannot provide (\S+) from \S+ already provided by (\S+ \([^)]*\))$`)
	cycle   = regexp.MustCompile(`(?m)^.* provided by (.*)$`)
)

// Explain turns the error of a dependency container into one sentence for the person who wrote the main function: which
// constructor, where that was listed, and what to do. cause is the error at the root of err; listed has, by the
// constructors' names, where they were listed.
func Explain(err, cause error, listed map[string]string) string {
	text := ""
	for e := err; e != nil; e = errors.Unwrap(e) {
		s := from.ReplaceAllString(e.Error(), " failed: ")
		if i := strings.LastIndex(s, " failed: "); i >= 0 {
			s = s[i+len(" failed: "):]
		}
		if told.MatchString(s) {
			text = s // the innermost one is about the constructor at fault
		}
	}
	if text == "" {
		return cause.Error()
	}
	ours := strings.HasPrefix(text, `received non-nil error from function "github.com/newsvc/newsvc/framework/app"`)
	text = located.ReplaceAllString(text, "$1.$2 ($4)")
	if m := missing.FindStringSubmatch(text); m != nil {
		return place(listed, m[1]) + m[1] + " needs " + m[2] + ", which nothing provides; add app.Provide or fx.Provide with " +
			"a constructor that returns it, app.Config if it is a section of the configuration, or app.Client if it is the client of a service"
	}
	if name, ok := strings.CutPrefix(text, "received non-nil error from "); ok {
		name = name[:strings.IndexAny(name+" ", " ")]
		if ours || strings.Contains(cause.Error(), name) {
			return cause.Error() // it has been put into words already
		}
		return place(listed, name) + name + ": " + cause.Error()
	}
	if m := twice.FindStringSubmatch(text); m != nil {
		return m[1] + " and " + m[3] + " both make a " + m[2] + "; leave one out, or give it a type of its own"
	}
	if strings.Contains(text, " provided by ") {
		return "constructors need each other: " + strings.Join(strings.Fields(cycle.ReplaceAllString(text[strings.Index(text, "\n")+1:], "$1")), " ") +
			"; let one of them take less"
	}
	return text
}

func place(listed map[string]string, name string) string {
	if where := listed[name]; where != "" {
		return where + ": "
	}
	return ""
}
