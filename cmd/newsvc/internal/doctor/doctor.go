// Package doctor looks at what newsvc and its projects depend on, and says what is wrong with a remedy to paste: the
// toolchain, versions, generated code, ports, etcd and what is registered there. It changes nothing, asks nothing and
// ends within its limit of time; what could not be looked at until then is said, and is no finding.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/workspace"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// limit is how long all checks together may take, when nothing else is said.
const limit = 5 * time.Second

// Level is what a check came to.
type Level string

// Levels. Warn and Fail are findings: something works not at all, or not as it should.
const (
	OK   Level = "ok"
	Skip Level = "skip" // there was nothing to look at, or no way to
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is the result of one check. Fix is set for findings, and works as it is pasted.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	What  string `json:"what"`
	At    string `json:"at,omitempty"`
	Fix   string `json:"fix,omitempty"`
}

// Report is all that was looked at.
type Report struct {
	Checks   []Finding `json:"checks"`
	Problems int       `json:"problems"`
	Warnings int       `json:"warnings"`
}

// Registry is the etcd to look at, and how it was chosen.
type Registry struct {
	Etcd   etcdclient.Config
	Prefix string
	How    string // "--etcd", "NEWSVC_ETCD", ".newsvc/dev.json", "default" and the like
	Devs   []int  // processes of newsvc dev that own it, or whose services are registered there
	// Records say what those run.
	Records []devrecord.Record
}

// Options say where to look.
type Options struct {
	Dir     string   // absolute
	Environ []string // as of os.Environ
	Build   buildinfo.Info
	// Locate chooses the etcd.
	Locate func(context.Context) (Registry, error)
	// Now is the clock of this machine; nil means time.Now.
	Now func() time.Time
	// Limit is how long all checks together may take; 0 means 5 s.
	Limit time.Duration
}

// examination is one run: the options, with what several checks read.
type examination struct {
	Options
	place    workspace.Place
	placeErr error         // why place says nothing
	gomod    *modfile.File // of the module around Dir; nil without one
	goErr    error         // why gomod is nil though there is a go.mod
	where    Registry
	whereErr error // why where is not known
}

// check looks at one thing. Several findings may come of it.
type check struct {
	name string
	look func(*examination, context.Context) []Finding
}

func checks() []check {
	return []check{
		{"go", (*examination).toolchain},
		{"path", (*examination).goBin},
		{"project", (*examination).project},
		{"versions", (*examination).versions},
		{"replace", (*examination).replaced},
		{"plugins", (*examination).plugins},
		{"generated", (*examination).generated},
		{"copies", (*examination).copies},
		{"rpcs", (*examination).rpcs},
		{"config", (*examination).settings},
		{"deploy", (*examination).deployed},
		{"etcd", (*examination).registry},
	}
}

// Run looks at everything. The error is that of ctx, or about flags of the command line; whatever else is wrong is in the
// report.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Limit == 0 {
		o.Limit = limit
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	x := &examination{Options: o}
	if err := x.prepare(ctx); err != nil {
		return Report{}, err
	}
	all := checks()
	results := make([]chan []Finding, len(all))
	for i, c := range all {
		results[i] = make(chan []Finding, 1)
		go func() { results[i] <- c.look(x, ctx) }()
	}
	var r Report
	for i, c := range all {
		select {
		case found := <-results[i]:
			r.add(c.name, found)
		case <-ctx.Done():
			select {
			case found := <-results[i]: // it was told to end too, and may know why
				r.add(c.name, found)
			case <-time.NewTimer(200 * time.Millisecond).C:
				r.add(c.name, []Finding{{Level: Skip, What: fmt.Sprintf("not finished within %v", o.Limit)}})
			}
		}
	}
	return r, context.Cause(caller)
}

// prepare reads what several checks look at.
func (x *examination) prepare(ctx context.Context) error {
	x.where, x.whereErr = x.Locate(ctx)
	if p := (*problem.Error)(nil); errors.As(x.whereErr, &p) && p.Exit == problem.Usage && p.At != locate.EnvEtcd {
		return p // a flag that cannot be used; no machine is at fault
	}
	if x.place, x.placeErr = workspace.Find(x.Dir); x.placeErr != nil {
		x.place = workspace.Place{Dir: x.Dir}
	}
	if x.place.Module != "" {
		x.gomod, x.goErr = readGoMod(x.place.Root)
	}
	return nil
}

func (r *Report) add(name string, found []Finding) {
	for _, f := range found {
		if f.Check == "" {
			f.Check = name
		}
		switch f.Level {
		case Fail:
			r.Problems++
		case Warn:
			r.Warnings++
		}
		r.Checks = append(r.Checks, f)
	}
}

// Findings reports whether anything needs a person.
func (r Report) Findings() bool { return r.Problems+r.Warnings > 0 }

// Print writes the report for people.
func (r Report) Print(w io.Writer) {
	for _, f := range r.Checks {
		level := string(f.Level)
		if f.Level == Fail {
			level = "FAIL"
		}
		fmt.Fprintf(w, "%-5s %-10s %s\n", level, f.Check, f.What)
		if f.At != "" {
			label := "at:"
			for line := range strings.SplitSeq(f.At, "\n") {
				fmt.Fprintf(w, "%20s %s\n", label, strings.TrimSpace(line))
				label = ""
			}
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "%20s %s\n", "fix:", f.Fix)
		}
	}
	fmt.Fprintf(w, "%s, %s\n", count(r.Problems, "problem"), count(r.Warnings, "warning"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// getenv reads the environment of the run; the last of several settings counts.
func (x *examination) getenv(key string) string {
	value := ""
	for _, line := range x.Environ {
		if k, v, ok := strings.Cut(line, "="); ok && k == key {
			value = v
		}
	}
	return value
}

func readGoMod(root string) (*modfile.File, error) {
	name := root + string(os.PathSeparator) + "go.mod"
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return modfile.Parse(name, text, nil)
}

func one(level Level, what string, args ...any) []Finding {
	return []Finding{{Level: level, What: fmt.Sprintf(what, args...)}}
}

// quote writes a word so that a shell reads it as one.
func quote(word string) string {
	special := func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:=,@%+", r)
	}
	if word != "" && strings.IndexFunc(word, special) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
