package generate

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

const (
	goPackageOption       = "go_package"
	goPackagePrefixOption = "go_package_prefix"
)

// foreignOptions are those that managed mode sets, unless told otherwise, and newsvc does not: they are for other
// languages, but they end up in the descriptor in Go code too.
func foreignOptions() []string {
	return []string{
		"csharp_namespace", "java_multiple_files", "java_outer_classname", "java_package",
		"objc_class_prefix", "php_metadata_namespace", "php_namespace", "ruby_package",
	}
}

// versioned matches the last part of a proto package that is a version: v1, v1beta2, v2p1alpha.
var versioned = regexp.MustCompile(`(^|\.)v[1-9][0-9]*(test[^.]*|(p[1-9][0-9]*)?(alpha|beta)([1-9][0-9]*)?)?$`)

// manage returns what changes the options of a file the way buf's managed mode does.
func (c config) manage(t tree) func(*descriptorpb.FileDescriptorProto) {
	return func(d *descriptorpb.FileDescriptorProto) {
		name := d.GetName()
		if !c.managed.enabled || strings.HasPrefix(name, "google/protobuf/") {
			return
		}
		module, ours := t.modules[name]
		if !ours {
			module = moduleOfLinked(name)
		}
		if value := c.managed.goPackage(d, module); value != "" {
			if d.Options == nil {
				d.Options = &descriptorpb.FileOptions{}
			}
			d.Options.GoPackage = proto.String(value)
		}
	}
}

// moduleOfLinked is the name under which buf knows a file that is linked into this binary.
func moduleOfLinked(name string) string {
	switch {
	case strings.HasPrefix(name, "buf/validate/"):
		return "buf.build/bufbuild/protovalidate"
	case strings.HasPrefix(name, "google/"):
		return "buf.build/googleapis/googleapis"
	}
	return ""
}

// goPackage is the value that managed mode gives a file; empty when it leaves the file alone. The last matching rule
// wins, as in buf.
func (m managed) goPackage(d *descriptorpb.FileDescriptorProto, module string) string {
	if m.disabled(goPackageOption, d.GetName(), module) {
		return ""
	}
	value, prefix := "", ""
	for _, o := range m.override {
		switch {
		case !o.matches(d.GetName(), module):
		case o.option == goPackageOption:
			value, prefix = o.value, ""
		case o.option == goPackagePrefixOption && !m.disabled(goPackagePrefixOption, d.GetName(), module):
			value, prefix = "", o.value
		}
	}
	if value != "" || prefix == "" {
		return value
	}
	value = path.Join(prefix, path.Dir(d.GetName()))
	if parts := strings.Split(d.GetPackage(), "."); len(parts) >= 2 && versioned.MatchString(d.GetPackage()) {
		value += ";" + parts[len(parts)-2] + parts[len(parts)-1]
	}
	return value
}

func (m managed) disabled(option, file, module string) bool {
	return slices.ContainsFunc(m.disable, func(d rule) bool {
		return (d.option == "" || d.option == option) && d.matches(file, module)
	})
}

func (u rule) matches(file, module string) bool {
	return (u.path == "" || u.path == file || u.path == "." || strings.HasPrefix(file, u.path+"/")) && (u.module == "" || u.module == module)
}

// foreign returns the options for other languages that buf would set in one of the files that are generated from.
func (m managed) foreign(t tree) []string {
	if !m.enabled {
		return nil
	}
	var left []string
	for _, option := range foreignOptions() {
		for file := range t.files {
			if !m.disabled(option, file, t.modules[file]) {
				left = append(left, option)
				break
			}
		}
	}
	return left
}
