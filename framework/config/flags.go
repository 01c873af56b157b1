package config

import (
	"fmt"
	"reflect"
	"strings"
	"text/tabwriter"
)

// options is what the flags say.
type options struct {
	config, env string
	set         []Setting
	help        bool
	version     bool
}

const flagHint = "flags are --config FILE, --env NAME, --set KEY=VALUE, --help and --version"

// parseFlags reads the arguments and notes problems.
func (ld *loader) parseFlags(args []string) options {
	var opt options
	pos := Position{Name: "arguments"}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, inline := strings.Cut(arg, "=")
		switch name {
		case "-h", "--help":
			opt.help = true
			continue
		case "--version":
			opt.version = true
			continue
		case "--config", "--env", "--set":
		default:
			ld.problem(pos, "", "%s", ld.strayArgument(name))
			continue
		}
		if !inline {
			if len(args) == 0 || strings.HasPrefix(args[0], "--") {
				ld.problem(pos, "", "flag %s needs a value; %s", name, flagHint)
				continue
			}
			value, args = args[0], args[1:]
		}
		if name == "--set" {
			args = ld.parseSet(&opt, value, args)
			continue
		}
		if value == "" {
			ld.problem(pos, "", "flag %s needs a value; %s", name, flagHint)
		}
		if name == "--config" {
			opt.config = value
		} else {
			opt.env = value
		}
	}
	return opt
}

// parseSet reads the value of --set and returns the arguments that are left.
func (ld *loader) parseSet(opt *options, value string, args []string) []string {
	key, text, ok := strings.Cut(value, "=")
	pos := Position{Name: "--set"}
	if ok && key != "" {
		opt.set = append(opt.set, Setting{Key: key, Text: text, Position: pos})
		return args
	}
	if !ok && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = args[1:] // the value, written apart: it may be a secret and must not show up as a stray argument
	}
	if key == "" {
		key = "KEY"
	}
	ld.problem(pos, key, "%s has no value; write --set %s=VALUE", key, key)
	return args
}

// strayArgument says what is wrong with an argument that is no flag of ours. What stands behind "=" is not shown.
func (ld *loader) strayArgument(name string) string {
	if !strings.HasPrefix(name, "-") {
		return fmt.Sprintf("unexpected argument %q; %s", shorten(name), flagHint)
	}
	if near := nearest("--"+strings.TrimLeft(name, "-"), []string{"--config", "--env", "--set", "--help", "--version"}); near != "" {
		return fmt.Sprintf("unknown flag %q; did you mean %s?", shorten(name), near)
	}
	text := fmt.Sprintf("unknown flag %q; %s", shorten(name), flagHint)
	if key := strings.TrimLeft(name, "-"); ld.root.at(strings.Split(key, ".")) != nil {
		text += fmt.Sprintf("; a setting is given as --set %s=VALUE", shorten(key))
	}
	return text
}

// version is the text of --version.
func version(src *Sources) string {
	name, v := src.Service, src.Version
	if name == "" {
		name = "service"
	}
	if v == "" {
		v = "(no version: built without a repository, and NEWSVC_VERSION is not set)"
	}
	return name + " " + v
}

// usage is the text of --help.
func usage(service string, root *node) string {
	var b strings.Builder
	name := service
	if name == "" {
		name = "service"
	}
	fmt.Fprintf(&b, "usage: %s [--config FILE] [--env NAME] [--set KEY=VALUE]...\n\n", name)
	b.WriteString("flags:\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, line := range []string{
		"--config FILE\tread FILE instead of config.yaml (also NEWSVC_CONFIG)",
		"--env NAME\tread config.NAME.yaml over it (also NEWSVC_ENV)",
		"--set KEY=VALUE\tset one key; may be repeated, wins over files and environment",
		"-h, --help\tprint this text",
		"--version\tprint the version of the binary",
	} {
		fmt.Fprintf(w, "  %s\n", line)
	}
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteString("\nkeys, with type and default")
	if service != "" {
		fmt.Fprintf(&b, " (the environment variable of a key is %s and the key, upper case, \"__\" for \".\", \"_\" for \"-\")", envPrefix(service))
	}
	b.WriteString(":\n")
	root.leaves(nil, func(path []string, n *node) {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", strings.Join(path, "."), typeName(n.typ), defaultText(n, path))
	})
	_ = w.Flush()
	return b.String()
}

// typeName is the type of a value in the words of a reader.
func typeName(t reflect.Type) string {
	if t.Kind() == reflect.Slice && !isText(t) {
		return "list"
	}
	name, _ := want(t)
	return strings.TrimPrefix(strings.TrimPrefix(name, "a "), "an ")
}

// defaultText is the default of a key as JSON; entries of maps have none.
func defaultText(n *node, path []string) string {
	v := below(n.section.defaults, path[len(n.section.path):])
	if !v.IsValid() {
		return ""
	}
	return jsonText(show(v, n.secret))
}
