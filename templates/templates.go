// Package templates holds what `newsvc create` writes: one embedded tree per kind of project, as text/template files
// with the delimiters [[ and ]], and the dependencies of a new project. It renders nothing; cmd/newsvc does.
//
// In paths, DOMAIN stands for the Go package of the service and PROTO for its proto directory; each file ends with
// .tmpl, so that the go command takes none of them for its own.
package templates

import "embed"

// Version is raised with each change of a tree that a project should be able to follow. It is kept in newsvc.yaml.
const Version = 2

// FS holds service/, the tree of a service; gateway/, what an HTTP edge has in place of it; workspace/, what a repository
// of several services has of its own; and gomod/, the go.mod and go.sum lines of a new project without the framework itself.
//
//go:embed all:service all:gateway all:workspace all:gomod
var FS embed.FS
