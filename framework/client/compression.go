package client

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
)

// Gzip is the value of Policy.Compression that gRPC for Go brings a package for.
const Gzip = "gzip"

// validateCompression demands that the compressor is linked in. It is not by default, and nothing here registers it:
// gRPC's registry is global and may only change before gRPC is used; and a process that knows a compressor tells so in
// each of its calls, which costs the servers four allocations a call.
func validateCompression(name string) error {
	switch {
	case name == "" || encoding.GetCompressor(name) != nil:
		return nil
	case name == Gzip:
		return fmt.Errorf("compression: %q is not linked into this process; import _ \"google.golang.org/grpc/encoding/gzip\" in main.go, the callee's too, or leave it empty", name)
	}
	return fmt.Errorf("compression: no compressor %q is linked into this process; write %q, or import the package that registers it", name, Gzip)
}

// compressWith is the call option of a compressor, nil for none.
func compressWith(name string) grpc.CallOption {
	if name == "" {
		return nil
	}
	return grpc.UseCompressor(name)
}

// options are those of one call; what the caller asks for wins.
func (p *livePolicy) options(opts []grpc.CallOption) []grpc.CallOption {
	if p.compress == nil {
		return opts
	}
	all := make([]grpc.CallOption, 0, len(opts)+2) // one more is added to streams
	return append(append(all, p.compress), opts...)
}
