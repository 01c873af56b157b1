// Package config turns layered sources into strict, validated, typed sections, and can tell for every key where its
// value was set.
//
// The layers, later ones win: defaults in code, config.yaml, config.<env>.yaml, layers from elsewhere
// ([Sources.Layers]), environment variables, flags. A section is a struct whose fields carry a config tag. A key that no
// section has is an error with its position and the nearest known key; a YAML value has its YAML type (a number is no
// duration, a boolean no text), only environment and flags are converted from text. All problems of all layers are
// reported together, in one [Error].
//
// Tags of a field: config:"key" names it (snake_case, "-" hides it from configuration), secret:"true" shows it as ***
// everywhere, reload:"live|pushed|redial" says what a later change takes (absent: a restart). For the schema alone, enum:"a|b" lists
// all values that Validate lets pass, and doc:"..." says what the key means.
//
// It is not a global registry: [Load] reads the sources it is given once and returns. A [Reloader] reads them again when
// they change and tells what of that takes effect.
package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// pathSep joins the segments of a path where they are used as one map key. Keys that hold it are refused, so a
// dot inside the name of a map entry ("app.kubernetes.io/name") stays part of that name.
const pathSep = "\x1f"

// Section is one part of the configuration: the keys of a struct at a path.
type Section struct {
	// Path is where the section lies, segments joined by dots: "server", "clients.user-service".
	Path string
	// Defaults is a struct value (no pointer) that holds what applies when no layer says otherwise. It may be nil
	// when Inherits is set: then the defaults of that section apply. It is never modified.
	Defaults any
	// Inherits is the path of a section of the same type that lies under this one: a key which no layer sets here
	// takes the value that a layer sets there. Empty: nothing is inherited.
	Inherits string
}

// Sources says where [Load] reads. The zero value reads config.yaml of the working directory, no environment, no flags.
type Sources struct {
	// Service is the name of the service. It makes the prefix of environment variables: "blogger-user" reads
	// BLOGGER_USER__SERVER__LISTEN. Empty: no variable is a setting.
	Service string
	// Version is what --version prints.
	Version string
	// Args are the arguments of the process without the program's name.
	Args []string
	// Environ is the environment in the form of [os.Environ].
	Environ []string
	// Dir is where config.yaml lies and what relative file names are relative to; empty is the working directory.
	Dir string
	// NoFile keeps Load from reading files that the arguments do not name: neither config.yaml nor what
	// NEWSVC_CONFIG and NEWSVC_ENV say. For tests.
	NoFile bool
	// Layers are further layers in rising precedence; all of them lie between the files and the environment.
	Layers []Layer
}

// Config is a loaded configuration. It never changes; its methods may be called from any goroutine.
type Config struct {
	service  string
	root     *node
	sections []*section
	origins  map[string]origin // by display key; what is absent here has its default
	values   []Value
	sources  []string
	seen     sightings
}

// Load reads all layers, checks them against the sections and validates each section: a section with a method
// Validate() error has it called, on the value and not before all layers are in. It returns an [*Error] that holds all
// problems found, or a [*HelpError] when the arguments ask for help or the version. It reads files and nothing else, and may be called
// any number of times.
func Load(src Sources, sections ...Section) (*Config, error) {
	c, _, err := load(src, sections, nil, nil)
	return c, err
}

// LoadOnly is Load for a program that needs some sections before it can read all layers: only problems that concern
// them, or a whole source, are errors. Of the result only the sections at paths are to be used.
func LoadOnly(src Sources, paths []string, sections ...Section) (*Config, error) {
	c, _, err := load(src, sections, nil, func(p Problem) bool {
		return p.Key != "" && !slices.ContainsFunc(paths, func(path string) bool { return lies(p.Key, path) })
	})
	return c, err
}

// lies says whether a key is path or lies below it.
func lies(key, path string) bool { return strings.HasPrefix(key+".", path+".") }

// load is Load. had are the files that must not have vanished; ignore says which problems are none. What was seen of the
// files is returned in any case.
func load(src Sources, sections []Section, had sightings, ignore func(Problem) bool) (*Config, sightings, error) {
	root, secs, err := newTree(sections)
	if err != nil {
		return nil, nil, err
	}
	ld := &loader{
		src: src, root: root, sections: secs, merged: koanf.New(pathSep), origins: map[string]origin{}, had: had, seen: sightings{},
	}
	if err := ld.readLayers(); err != nil {
		return nil, ld.seen, err
	}
	ld.fill()
	ld.validate()
	if ignore != nil {
		ld.problems = slices.DeleteFunc(ld.problems, ignore)
	}
	if len(ld.problems) > 0 {
		return nil, ld.seen, &Error{Problems: ld.problems}
	}
	c := &Config{service: src.Service, root: root, sections: secs, origins: ld.display(), sources: ld.report, seen: ld.seen}
	c.values = c.collect()
	return c, ld.seen, nil
}

// Get returns the section at a path, decoded and validated. T is the type of the section's defaults. The value is the
// caller's own: changing it changes nothing here.
func Get[T any](c *Config, path string) (T, error) {
	var zero T
	for _, s := range c.sections {
		if s.name != path {
			continue
		}
		if got, ok := clone(s.value).Interface().(T); ok {
			return got, nil
		}
		return zero, fmt.Errorf("read section %q as %T: it holds a %s; ask for that type", path, zero, s.value.Type())
	}
	return zero, fmt.Errorf("read section %q: no such section; known are %s", path, quoted(c.Sections()))
}

// Sections returns the paths of all sections, sorted.
func (c *Config) Sections() []string {
	names := make([]string, 0, len(c.sections))
	for _, s := range c.sections {
		names = append(names, s.name)
	}
	return names
}

// origin is where a value was set: its position, and the section it was inherited from if it was.
type origin struct {
	pos  Position
	from string
}

func (o origin) String() string {
	if o.from != "" {
		return o.from + " (" + o.pos.short() + ")"
	}
	return o.pos.short()
}

// setting is one key of one layer after its type was checked. The value is plain: string, bool, int64, uint64,
// float64, []any or, within a list, map[string]any.
type setting struct {
	path  []string
	value any
	pos   Position
}

// loader is the state of one Load.
type loader struct {
	src      Sources
	root     *node
	sections []*section
	merged   *koanf.Koanf
	origins  map[string]origin // by path joined with pathSep
	problems []Problem
	report   []string
	had      sightings // files that must not have vanished
	seen     sightings
}

// add merges one layer over the ones before.
func (ld *loader) add(settings []setting) {
	if len(settings) == 0 {
		return
	}
	flat := make(map[string]any, len(settings))
	for _, s := range settings {
		key := strings.Join(s.path, pathSep)
		flat[key] = s.value
		ld.origins[key] = origin{pos: s.pos}
	}
	if err := ld.merged.Load(confmap.Provider(flat, pathSep), nil); err != nil {
		ld.problem(Position{}, "", "merge the layers of the configuration: %v", err)
	}
}

// problem notes a problem; text that concerns a key starts with the key.
func (ld *loader) problem(pos Position, key, format string, args ...any) {
	ld.problems = append(ld.problems, Problem{Key: key, Position: pos, Text: fmt.Sprintf(format, args...)})
}

// display returns the origins by the key a person reads.
func (ld *loader) display() map[string]origin {
	out := make(map[string]origin, len(ld.origins))
	for key, o := range ld.origins {
		out[strings.ReplaceAll(key, pathSep, ".")] = o
	}
	return out
}

// section is a registered section with the value that Load built.
type section struct {
	name     string
	path     []string
	defaults reflect.Value // never changed
	value    reflect.Value // addressable struct
	base     *section      // what it inherits from, or nil
}
