// Package authv1 holds the options by which a .proto file says who may call a method: generated code, and the text it was
// generated from. What the options mean is decided by package auth.
package authv1

import _ "embed" // for the text below

// Source is the .proto file of this package: newsvc writes it for tools that cannot read it from here.
//
//go:embed auth.proto
var Source string
