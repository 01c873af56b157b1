package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

const defaultFile = "config.yaml"

var envNamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

// Layer is a source of settings from elsewhere, for example a prefix in etcd.
type Layer struct {
	// Name stands in the list of sources: "etcd /newsvc/config/user-service".
	Name string
	// Settings are its keys; a later one for the same key wins.
	Settings []Setting
	// Documents lets a setting whose key is a group, or "" for the whole, hold the keys of that group as YAML.
	Documents bool
	// Refused are keys that the layer cannot hold, each with all that lies below it, and why.
	Refused map[string]string
}

// Setting is one key of a [Layer].
type Setting struct {
	// Key is the whole key, segments joined by dots: "server.listen".
	Key string
	// Text is the value; it is converted to the type of the key as the environment is.
	Text string
	// Position says where the value stands; provenance and errors show it. An empty one shows the name of the layer.
	Position Position
}

// readLayers reads all layers in order of precedence. Only a request for help, or the version, is an error; the rest are problems.
func (ld *loader) readLayers() error {
	opt := ld.parseFlags(ld.src.Args)
	if opt.help {
		return &HelpError{Usage: usage(ld.src.Service, ld.root)}
	}
	if opt.version {
		return &HelpError{Usage: version(&ld.src)}
	}
	ld.report = append(ld.report, "defaults")
	ld.readFiles(opt)
	for _, l := range ld.src.Layers {
		ld.add(ld.textLayer(l))
		ld.report = append(ld.report, l.Name)
	}
	env := ld.environment()
	ld.add(env)
	if len(env) > 0 {
		ld.report = append(ld.report, count("env", len(env), "variable"))
	}
	flags := ld.textLayer(Layer{Name: "--set", Settings: opt.set})
	ld.add(flags)
	if len(flags) > 0 {
		ld.report = append(ld.report, count("--set", len(flags), "key"))
	}
	return nil
}

func count(source string, n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%s (%d %s)", source, n, noun)
}

// readFiles reads the configuration file and the one of the environment, which lies beside it.
func (ld *loader) readFiles(opt options) {
	file, fileBy := opt.config, "--config"
	env, envBy := opt.env, "--env"
	if !ld.src.NoFile {
		if file == "" {
			file, fileBy = lookup(ld.src.Environ, "NEWSVC_CONFIG"), "NEWSVC_CONFIG"
		}
		if env == "" {
			env, envBy = lookup(ld.src.Environ, "NEWSVC_ENV"), "NEWSVC_ENV"
		}
	}
	switch {
	case file != "":
		ld.readFile(file, fileBy)
	case !ld.src.NoFile:
		ld.readFile(defaultFile, "")
	}
	if env == "" {
		return
	}
	if !envNamePattern.MatchString(env) {
		ld.problem(Position{Name: envBy}, "", "%q is no name of an environment; write letters, digits, - and _, for example \"dev\"", shorten(env))
		return
	}
	if file == "" {
		file = defaultFile
	}
	ext := filepath.Ext(file)
	ld.readFile(strings.TrimSuffix(file, ext)+"."+env+ext, envBy)
}

// readFile reads one file. An empty "by" means that nobody named the file, so that its absence is no problem.
func (ld *loader) readFile(name, by string) {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(ld.src.Dir, path)
	}
	data, err := ld.seen.read(path)
	if errors.Is(err, fs.ErrNotExist) && by == "" && ld.had.there(path) {
		ld.problem(Position{Name: name}, "", "%q was read before and is gone; put it back, or restart to run without it", path)
		return
	}
	if errors.Is(err, fs.ErrNotExist) && by == "" {
		ld.report = append(ld.report, name+" (absent)")
		return
	}
	if err != nil {
		ld.problems = append(ld.problems, Problem{Position: Position{Name: by}, Text: unreadable(path, by, err), Cause: err})
		return
	}
	ld.report = append(ld.report, name)
	ld.add(ld.readYAML(name, data))
}

func unreadable(path, by string, err error) string {
	reason := err
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		reason = pe.Err
	}
	remedy := "check the path"
	switch {
	case errors.Is(err, fs.ErrNotExist) && by == "--env", errors.Is(err, fs.ErrNotExist) && by == "NEWSVC_ENV":
		remedy = "create it, or leave out " + by
	case errors.Is(err, fs.ErrNotExist):
		remedy = "create it, or name another one with " + by
	case errors.Is(err, fs.ErrPermission):
		remedy = "make it readable for the user that runs the service"
	case errors.Is(err, syscall.EISDIR):
		remedy = "name a YAML file"
	}
	return fmt.Sprintf("read configuration file %q: %v; %s", path, reason, remedy)
}

// textLayer converts a layer of keys and texts.
func (ld *loader) textLayer(l Layer) []setting {
	var out []setting
	for _, s := range l.Settings {
		if s.Position == (Position{}) {
			s.Position.Name = l.Name
		}
		if n, path := ld.groupAt(s.Key); n != nil && l.Documents {
			out = append(out, ld.readDocument(s.Position.Name, n, path, s.Text)...)
			continue
		}
		n, path, text := ld.resolve(s.Key)
		if text == "" {
			out = ld.text(out, n, path, s.Text, s.Position)
			continue
		}
		ld.problem(s.Position, s.Key, "%s", text)
	}
	return ld.refuse(l, out)
}

// refuse takes out what a layer cannot hold.
func (ld *loader) refuse(l Layer, settings []setting) []setting {
	return slices.DeleteFunc(settings, func(s setting) bool {
		key := strings.Join(s.path, ".")
		for refused, why := range l.Refused {
			if lies(key, refused) {
				ld.problem(s.pos, key, "%s cannot be set here: %s", key, why)
				return true
			}
		}
		return false
	})
}

// groupAt finds the group or map with a dotted key; nil if that is none.
func (ld *loader) groupAt(key string) (*node, []string) {
	n := ld.root
	var path []string
	if key != "" {
		path = strings.Split(key, ".")
	}
	for _, seg := range path {
		if n.kind == kindMap {
			n = n.elem
		} else {
			n = n.children[seg]
		}
		if n == nil {
			return nil, nil
		}
	}
	if n.kind == kindLeaf {
		return nil, nil
	}
	return n, path
}

// text appends a setting made from text, or notes why it cannot be made.
func (ld *loader) text(out []setting, n *node, path []string, text string, pos Position) []setting {
	key := strings.Join(path, ".")
	plain, err := fromText(n.typ, text)
	if err != nil {
		ld.problem(pos, key, "%s: %v", key, conceal(err, n.typ, n.secret))
		return out
	}
	return append(out, setting{path: path, value: plain, pos: pos})
}

// resolve finds the leaf of a dotted key. The name of an entry of a map may have dots: it ends where the rest is a key of what
// the map holds. The text says what is wrong, empty if nothing is.
func (ld *loader) resolve(key string) (n *node, path []string, text string) {
	n = ld.root
	segs := strings.Split(key, ".")
	for i := 0; i < len(segs); i++ {
		seg := segs[i]
		switch n.kind {
		case kindMap:
			taken := n.elem.entryLength(segs[i:])
			seg = strings.Join(segs[i:i+taken], ".")
			i += taken - 1
			if seg == "" || strings.Contains(seg, pathSep) {
				return nil, nil, fmt.Sprintf("key %q names no entry; write %s.NAME", key, strings.Join(path, "."))
			}
			n = n.elem
		case kindGroup:
			if n.children[seg] == nil {
				return nil, nil, ld.unknown(n, append(slices.Clone(path), seg))
			}
			n = n.children[seg]
		default:
			return nil, nil, fmt.Sprintf("unknown key %q; %q is a value and has no keys of its own", key, strings.Join(path, "."))
		}
		path = append(path, seg)
	}
	if n.kind != kindLeaf {
		return nil, nil, fmt.Sprintf("%s is a group of keys, not a value; name one of its keys: %s", key, keysOf(n))
	}
	return n, path, ""
}

// entryLength is how many segments make the name of an entry of a map that holds what n describes.
func (n *node) entryLength(segs []string) int {
	if n.kind == kindLeaf {
		return len(segs)
	}
	for taken := 1; taken < len(segs); taken++ {
		at := n
		for _, seg := range segs[taken:] {
			if at != nil && at.kind == kindGroup {
				at = at.children[seg]
			} else if at != nil && at.kind == kindMap {
				at = at.elem
			} else {
				at = nil
			}
		}
		if at != nil && at.kind == kindLeaf {
			return taken
		}
	}
	return 1
}

// lookup returns the last value of an environment variable, as the system does.
func lookup(environ []string, name string) string {
	value := ""
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			value = v
		}
	}
	return value
}
