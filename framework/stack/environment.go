package stack

import (
	"io"
	"os"
	"runtime/debug"
	"strconv"

	"go.uber.org/zap/zapcore"

	"github.com/newsvc/newsvc/framework/config"
)

// Environment is everything a service takes from the process around it. [FromProcess] reads it; tests make one up.
type Environment struct {
	// Sources is where the configuration is read.
	Sources config.Sources
	// Process is what else the environment says.
	Process Process
	// Replace puts other parts in the place of the real ones.
	Replace Replace
	// Version is the service's own version: NEWSVC_VERSION, which images set, else what the binary was stamped with.
	Version string
	// Log is where the log is written; nil is standard error.
	Log zapcore.WriteSyncer
	// Stdout takes the answers of Introspect; nil is standard output.
	Stdout io.Writer
	// Introspect is NEWSVC_INTROSPECT: what to print instead of starting. Empty starts.
	Introspect string
}

// FromProcess is the environment of this very process.
func FromProcess(service string) *Environment {
	env := &Environment{
		Sources: config.Sources{Service: service, Args: os.Args[1:], Environ: os.Environ()},
		Process: Process{
			Dev: os.Getenv("NEWSVC_DEV") == "1", PodIP: os.Getenv("POD_IP"), ReadyFile: os.Getenv("NEWSVC_READY_FILE"),
			HTTPSocket: inheritedSocket(os.Getenv("NEWSVC_HTTP_FD")),
		},
		Introspect: os.Getenv("NEWSVC_INTROSPECT"),
	}
	env.Version = os.Getenv("NEWSVC_VERSION") // of an image, whose build sees no repository
	if info, ok := debug.ReadBuildInfo(); ok && env.Version == "" && info.Main.Version != "(devel)" {
		env.Version = info.Main.Version
	}
	env.Sources.Version = env.Version
	return env.Filled()
}

// Filled returns the environment with what is nil replaced by the process' own.
func (e *Environment) Filled() *Environment {
	c := *e
	if c.Log == nil {
		c.Log = zapcore.Lock(os.Stderr)
	}
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	return &c
}

// inheritedSocket is the open file with that number; nil when fd is none.
func inheritedSocket(fd string) *os.File {
	n, err := strconv.ParseUint(fd, 10, 16)
	if err != nil || n < 3 {
		return nil
	}
	return os.NewFile(uintptr(n), "NEWSVC_HTTP_FD="+fd)
}
