package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/config"
)

// fileAt is how findings name a place: a file, and mostly the line in it.
var fileAt = regexp.MustCompile(`^(.+?\.(?:proto|ya?ml|mod))(?::([0-9]+))?\b`)

// edit is the command that opens files in the editor of the person: what only a person can put right.
func edit(files ...string) string {
	line := "${EDITOR:-vi}"
	if runtime.GOOS == "windows" {
		line = "notepad"
	}
	for _, f := range files {
		line += " " + quote(f)
	}
	return line
}

// editAt is edit for the file that a finding names; empty when it names none that is there.
func (x *examination) editAt(at string) string {
	m := fileAt.FindStringSubmatch(at)
	if m == nil {
		return ""
	}
	file := absolute(x.Dir, m[1])
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return edit(file)
}

// asFinding is what another command would end with, with a remedy that can be pasted where that one has words.
func (x *examination) asFinding(p *problem.Error) Finding {
	f := Finding{Level: Fail, What: p.What, At: p.At, Fix: p.Fix}
	if wrong := (*config.Error)(nil); errors.As(p, &wrong) {
		f.Fix = x.correct(wrong)
		return f
	}
	command, _, _ := strings.Cut(p.Fix, "      ") // what stands behind is for people
	switch {
	case p.At == locate.EnvEtcd: // nobody knows what it was meant to be
		f.Fix = "unset " + locate.EnvEtcd
	case strings.Contains(p.Fix, "--etcd "): // several to choose from
		f.Fix = "newsvc doctor " + p.Fix[strings.LastIndex(p.Fix, "--etcd "):]
	case strings.HasPrefix(p.Fix, "add to "): // what to write, where no line says so
		f.What, f.Fix = p.What+"; "+p.Fix, edit(filepath.Join(x.place.Root, "buf.gen.yaml"))
	case strings.Contains(p.What, "is in the way"):
		f.Fix = moveAway(x.Dir, strings.Split(p.At, "\n"))
	case strings.HasPrefix(command, "go get ") || strings.HasPrefix(command, "newsvc ") || strings.HasPrefix(command, "buf "):
		f.Fix = command
	default:
		if to := x.editAt(p.At); to != "" {
			f.Fix = to
		}
	}
	return f
}

// moveAway makes room for generated files, and generates them.
func moveAway(dir string, files []string) string {
	var line []string
	for _, f := range files {
		f = quote(absolute(dir, strings.TrimSpace(f)))
		line = append(line, fmt.Sprintf("mv %s %s.own", f, f))
	}
	return strings.Join(append(line, "newsvc generate"), " && ")
}

// correct is the remedy of a configuration that is refused: its files are opened, its variables are taken back.
func (x *examination) correct(wrong *config.Error) string {
	var files, variables []string
	for _, p := range wrong.Problems {
		if name, ok := strings.CutPrefix(p.Position.Name, "env "); ok {
			variables = append(variables, name)
		} else if m := fileAt.FindStringSubmatch(p.Position.Name); m != nil {
			files = append(files, absolute(x.place.ServiceDir, m[1]))
		}
	}
	files, variables = slices.Compact(files), slices.Compact(variables)
	switch {
	case len(variables) > 0 && len(files) > 0:
		return "unset " + strings.Join(variables, " ") + "; " + edit(files...)
	case len(variables) > 0:
		return "unset " + strings.Join(variables, " ")
	case len(files) > 0:
		return edit(files...)
	}
	return edit(filepath.Join(x.place.ServiceDir, "config.yaml"))
}

// from is the remedy for a setting that does not fit, by where it was set: a variable is taken back, a file is opened.
func (x *examination) from(how string) string {
	how, _, _ = strings.Cut(how, " of ")
	if name, ok := strings.CutPrefix(how, "env "); ok {
		return "unset " + name
	}
	file := filepath.Join(x.place.ServiceDir, "config.yaml")
	if m := fileAt.FindStringSubmatch(how); m != nil {
		file = absolute(x.place.ServiceDir, m[1])
	}
	return edit(file)
}

// Etcdctl is the beginning of a command line for an etcd: where it is, and how it is talked to. The password is not in
// it; etcdctl asks for it, or takes ETCDCTL_PASSWORD.
func (r Registry) Etcdctl(endpoint string) string {
	t := r.Etcd.TLS
	if t.Active() && !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	line := []string{"etcdctl", "--endpoints=" + quote(endpoint)}
	for _, f := range []struct{ flag, value string }{{"cacert", t.CA}, {"cert", t.Cert}, {"key", t.Key}, {"user", r.Etcd.Username}} {
		if f.value != "" {
			line = append(line, "--"+f.flag+"="+quote(f.value))
		}
	}
	return strings.Join(line, " ")
}
