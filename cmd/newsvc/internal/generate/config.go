package generate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/protogen"
)

// configFile is read by buf and by newsvc alike, so that both write the same.
const configFile = "buf.gen.yaml"

// config is what buf.gen.yaml says. Without that file, plugins are the two for Go, and go_package follows the directory.
type config struct {
	found   bool
	managed managed
	plugins []plugin
	inputs  []string // directories, relative to the file
}

type managed struct {
	enabled           bool
	line              int
	disable, override []rule
}

// rule changes an option of the files that it matches, or stops managed mode from doing so.
type rule struct {
	option, module, path, value string
}

// plugin is one entry of plugins.
type plugin struct {
	line     int
	local    []string // the command
	out      string
	opt      string // joined with commas
	together bool   // strategy: all; else a run for each directory
}

func readConfig(root string) (config, error) {
	c := config{
		inputs: []string{"proto"},
		plugins: []plugin{
			{local: []string{"go", "tool", protogen.Messages}, out: "proto", opt: "paths=source_relative"},
			{local: []string{"go", "tool", protogen.Stubs}, out: "proto", opt: "paths=source_relative"},
		},
	}
	text, err := os.ReadFile(filepath.Join(root, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return config{}, err
	}
	return parseConfig(root, text)
}

func parseConfig(root string, text []byte) (config, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return config{}, &problem.Error{
			Exit: problem.Conflict, What: configFile + " is no YAML", At: filepath.Join(root, configFile) + ": " + strings.TrimPrefix(err.Error(), "yaml: "),
			Fix: "mend the line, then run it again", Err: err,
		}
	}
	c := config{found: true}
	r := &reader{}
	if len(doc.Content) == 1 {
		c.read(r, doc.Content[0])
	}
	if len(r.refused) > 0 {
		return config{}, refusal(r.refused)
	}
	return c, nil
}

func refusal(refused []string) error {
	what := "newsvc generate does not implement an option of " + configFile
	if len(refused) > 1 {
		what = fmt.Sprintf("newsvc generate does not implement %d options of %s", len(refused), configFile)
	}
	return &problem.Error{
		Exit: problem.Conflict,
		What: what,
		At:   strings.Join(refused, "\n       "),
		Fix:  "take it out of " + configFile + ", or keep it and run: buf generate",
	}
}

// reader walks a YAML document and notes what it cannot honour.
type reader struct{ refused []string }

func (r *reader) refuse(n *yaml.Node, format string, args ...any) {
	r.refused = append(r.refused, fmt.Sprintf("%s:%d: %s", configFile, n.Line, fmt.Sprintf(format, args...)))
}

// fields calls the reader of each key; a key without one is refused.
func (r *reader) fields(n *yaml.Node, where string, readers map[string]func(*yaml.Node)) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		r.refuse(n, "%s is no mapping", strings.TrimSuffix(where, "."))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if read := readers[key.Value]; read != nil {
			read(value)
		} else {
			r.refuse(key, "%s%s", where, key.Value)
		}
	}
}

func (r *reader) list(n *yaml.Node, where string, each func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.refuse(n, "%s is no list", where)
		return
	}
	for _, item := range n.Content {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		each(item)
	}
}

// words reads a string or a list of strings.
func (r *reader) words(n *yaml.Node, where string) []string {
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}
	}
	var out []string
	r.list(n, where, func(item *yaml.Node) { out = append(out, item.Value) })
	return out
}

// only accepts one value: the one that asks for nothing.
func (r *reader) only(where string, accepted ...string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || !slices.Contains(accepted, n.Value) {
			r.refuse(n, "%s: %s", where, n.Value)
		}
	}
}

func (c *config) read(r *reader, root *yaml.Node) {
	r.fields(root, "", map[string]func(*yaml.Node){
		"version": r.only("version", "v2"),
		"clean":   r.only("clean", "false"), // nothing is deleted that newsvc did not write
		"managed": func(n *yaml.Node) { c.managed.read(r, n) },
		"inputs": func(n *yaml.Node) {
			r.list(n, "inputs", func(item *yaml.Node) {
				r.fields(item, "inputs.", map[string]func(*yaml.Node){
					"directory": func(n *yaml.Node) { c.inputs = append(c.inputs, n.Value) },
				})
			})
		},
		"plugins": func(n *yaml.Node) {
			r.list(n, "plugins", func(item *yaml.Node) {
				p := plugin{line: item.Line}
				p.read(r, item)
				c.plugins = append(c.plugins, p)
			})
		},
	})
}

func (pl *plugin) read(r *reader, n *yaml.Node) {
	r.fields(n, "plugins.", map[string]func(*yaml.Node){
		"local": func(n *yaml.Node) { pl.local = r.words(n, "plugins.local") },
		"out":   func(n *yaml.Node) { pl.out = n.Value },
		"opt":   func(n *yaml.Node) { pl.opt = strings.Join(r.words(n, "plugins.opt"), ",") },
		"strategy": func(n *yaml.Node) {
			r.only("plugins.strategy", "all", "directory")(n)
			pl.together = n.Value == "all"
		},
		"include_imports": r.only("plugins.include_imports", "false"),
		"include_wkt":     r.only("plugins.include_wkt", "false"),
	})
	if len(r.refused) == 0 && (len(pl.local) == 0 || pl.out == "") {
		r.refuse(n, "a plugin without local or out")
	}
}

func (m *managed) read(r *reader, n *yaml.Node) {
	m.line = n.Line
	one := func(where string, options []string, into *[]rule) func(*yaml.Node) {
		return func(n *yaml.Node) {
			r.list(n, where, func(item *yaml.Node) {
				var u rule
				r.fields(item, where+".", map[string]func(*yaml.Node){
					"file_option": func(n *yaml.Node) {
						if u.option = n.Value; options != nil && !slices.Contains(options, u.option) {
							r.refuse(n, "%s.file_option: %s", where, n.Value)
						}
					},
					"module": func(n *yaml.Node) { u.module = n.Value },
					"path":   func(n *yaml.Node) { u.path = strings.TrimSuffix(n.Value, "/") },
					"value":  func(n *yaml.Node) { u.value = n.Value },
				})
				*into = append(*into, u)
			})
		}
	}
	r.fields(n, "managed.", map[string]func(*yaml.Node){
		"enabled":  func(n *yaml.Node) { m.enabled = n.Value == "true" },
		"disable":  one("managed.disable", nil, &m.disable),
		"override": one("managed.override", []string{goPackageOption, goPackagePrefixOption}, &m.override),
	})
}

// generates says whether code is generated from a file, given by its absolute path.
func (c config) generates(root, name string) bool {
	if len(c.inputs) == 0 {
		return true
	}
	return slices.ContainsFunc(c.inputs, func(dir string) bool {
		rel, err := filepath.Rel(filepath.Join(root, filepath.FromSlash(dir)), name)
		return err == nil && filepath.IsLocal(rel)
	})
}
