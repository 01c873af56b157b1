package config

import (
	"fmt"
	"slices"
	"strings"
)

// leaves yields the path of every known value, sorted. Entries of maps appear as <name>.
func (n *node) leaves(path []string, yield func([]string, *node)) {
	switch n.kind {
	case kindLeaf:
		yield(path, n)
	case kindMap:
		n.elem.leaves(append(slices.Clone(path), "<name>"), yield)
	default:
		for _, name := range n.names() {
			n.children[name].leaves(append(slices.Clone(path), name), yield)
		}
	}
}

// keysOf lists what may stand in a group, for an error text.
func keysOf(n *node) string {
	if n.kind == kindMap {
		return "any names"
	}
	return quoted(n.names())
}

// unknown says that the last segment of a path is no key of n and what was probably meant.
func (ld *loader) unknown(n *node, path []string) string {
	key, parent := strings.Join(path, "."), strings.Join(path[:len(path)-1], ".")
	name := path[len(path)-1]
	text := fmt.Sprintf("unknown key %q; ", key)
	if key == "clients" {
		return text + `no callee is declared: main.go needs for example app.Client("user-service", ...)`
	}
	if parent == "clients" {
		remedy := fmt.Sprintf("no callee of this name is declared: main.go needs app.Client(%q, ...)", strings.ReplaceAll(name, "_", "-"))
		if near := nearest(name, n.names()); near != "" {
			remedy = suggest(near, parent, nil) + " if not, " + remedy
		}
		return text + remedy
	}
	if near := nearest(name, n.names()); near != "" {
		return text + suggest(near, parent, nil)
	}
	if strings.Contains(name, ".") { // only a file can hold such a name: elsewhere a dot ends a segment
		if _, whole, wrong := ld.resolve(key); wrong == "" {
			return text + "write one level per line, each indented below the one before: " + strings.Join(whole, ": ") + ":"
		}
	}
	if other := ld.elsewhere(name); other != "" {
		return text + fmt.Sprintf("did you mean %q?", other)
	}
	return text + suggest("", parent, n.names())
}

// elsewhere returns the only known key that ends in a name, or "".
func (ld *loader) elsewhere(name string) string {
	found := ""
	ld.root.leaves(nil, func(path []string, _ *node) {
		if path[len(path)-1] != name {
			return
		}
		if found == "" {
			found = strings.Join(path, ".")
		} else {
			found = "\x00"
		}
	})
	if found == "\x00" {
		return ""
	}
	return found
}

// suggest ends the text about an unknown key: the nearest key of its group, or all of them.
func suggest(near, parent string, names []string) string {
	if near != "" {
		return fmt.Sprintf("did you mean %q?", strings.TrimPrefix(parent+"."+near, "."))
	}
	if parent == "" {
		return "known here: " + quoted(names)
	}
	return fmt.Sprintf("known in %s: %s", parent, quoted(names))
}
