package authv1

import _ "embed" // for the text below

// Source is the .proto file of this package: newsvc writes it for tools that cannot read it from here.
//
//go:embed auth.proto
var Source string
