// Package thirdparty holds .proto files of other projects, for those who cannot read them from a registry. Beside this
// file, everything here is written by make generate, from the descriptors that go.sum pins.
package thirdparty

import "embed"

// FS has the files by the paths that imports use, such as "buf/validate/validate.proto".
//
//go:embed buf google
var FS embed.FS
