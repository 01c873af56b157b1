// Package deploy has tests only: they read the deployment files of created projects with the parsers of those who will,
// Kubernetes' API types and BuildKit's, and run what the files say is run. It is a module of its own, so that those
// parsers are nobody's dependency. make test-deploy runs it.
package deploy
