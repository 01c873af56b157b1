package stack

import (
	"log/slog"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/logging"
	"github.com/newsvc/newsvc/framework/server"
)

// The parts' types under this package's name: whoever wires a stack into something, as package app does, needs no other
// room.
type (
	// Clients makes connections by callee name.
	Clients = client.Factory
	// ServerOption adjusts the gRPC server.
	ServerOption = server.Option
	// Source is where instances are read.
	Source = discovery.Source
	// Levels are those of the service's loggers.
	Levels = logging.Levels
)

// NewLog returns the service's logger, and its levels, which can be changed at run time. dev prints for a person.
func NewLog(cfg Config, service string, dev bool, out zapcore.WriteSyncer) (*zap.Logger, *Levels, error) {
	l := cfg.Log
	l.Development = dev
	return logging.New(l, out, zap.String("service", service))
}

// Slog is log for code that logs with the standard library; see [logging.Slog].
func Slog(log *zap.Logger) *slog.Logger { return logging.Slog(log) }

// grpcLogWindow is the time in which one text of gRPC's own log is written once: it repeats each failed attempt to
// connect.
const grpcLogWindow = time.Minute

// TakeGRPCLog has the warnings and errors that gRPC itself logs go to log, but for what is told better by others: see
// [toldElsewhere]. It changes a setting of the whole process and must be called before gRPC is used; it is for the owner of the
// process alone.
func TakeGRPCLog(log *zap.Logger) {
	grpclog.SetLoggerV2(logging.GRPC(log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return withoutRepeats{zapcore.NewSamplerWithOptions(c, grpcLogWindow, 1, 0)}
	}))))
}

// withoutRepeats drops what is [toldElsewhere].
type withoutRepeats struct{ zapcore.Core }

// With implements [zapcore.Core].
func (c withoutRepeats) With(fields []zapcore.Field) zapcore.Core {
	return withoutRepeats{c.Core.With(fields)}
}

// Check implements [zapcore.Core].
func (c withoutRepeats) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if toldElsewhere(e.Message) {
		return to
	}
	return c.Core.Check(e, to)
}

// ofEtcd are attempts to connect to etcd: only its client names a server by host:port.
var ofEtcd = regexp.MustCompile(`createTransport failed to connect to \{Addr: "([^"]+:[0-9]+)", ServerName: "([^"]+:[0-9]+)"`)

// toldElsewhere reports whether somebody else logs it, once: that a callee has no instances is said by the resolver, that etcd
// can't be reached and why by each registration and watch.
func toldElsewhere(text string) bool {
	if strings.Contains(text, "ccResolverWrapper: reporting error to cc") {
		return true
	}
	m := ofEtcd.FindStringSubmatch(text)
	return m != nil && m[1] == m[2]
}
