package stack

import (
	"log/slog"
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

// TakeGRPCLog has the warnings and errors that gRPC itself logs go to log. It changes a setting of the whole process and
// must be called before gRPC is used; it is for the owner of the process alone.
func TakeGRPCLog(log *zap.Logger) {
	grpclog.SetLoggerV2(logging.GRPC(log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, grpcLogWindow, 1, 0)
	}))))
}
