package logging

import (
	"fmt"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"
)

// GRPC returns a logger for grpclog.SetLoggerV2 that writes warnings and errors of gRPC to log and drops the rest, which is
// a line for each change of each connection. SetLoggerV2 is global and not safe once gRPC runs: that call belongs to the
// program, before it uses gRPC. A fatal entry is written as an error; gRPC itself ends the process after it.
func GRPC(log *zap.Logger) grpclog.LoggerV2 { return grpcLog{log.Named("grpc")} }

type grpcLog struct{ log *zap.Logger }

var _ grpclog.DepthLoggerV2 = grpcLog{}

// write formats an entry only when its level is enabled. The text is there when the entry is checked, for samplers.
func (g grpcLog) write(level zapcore.Level, text func() string) {
	if !g.log.Core().Enabled(level) {
		return
	}
	if entry := g.log.Check(level, strings.TrimSuffix(text(), "\n")); entry != nil {
		entry.Write()
	}
}

func (g grpcLog) print(level zapcore.Level, args []any) {
	g.write(level, func() string { return fmt.Sprint(args...) })
}

func (g grpcLog) println(level zapcore.Level, args []any) {
	g.write(level, func() string { return fmt.Sprintln(args...) })
}

func (g grpcLog) printf(level zapcore.Level, format string, args []any) {
	g.write(level, func() string { return fmt.Sprintf(format, args...) })
}

func (grpcLog) Info(...any)                       {}
func (grpcLog) Infoln(...any)                     {}
func (grpcLog) Infof(string, ...any)              {}
func (grpcLog) InfoDepth(int, ...any)             {}
func (g grpcLog) Warning(args ...any)             { g.print(zapcore.WarnLevel, args) }
func (g grpcLog) Warningln(args ...any)           { g.println(zapcore.WarnLevel, args) }
func (g grpcLog) Warningf(f string, args ...any)  { g.printf(zapcore.WarnLevel, f, args) }
func (g grpcLog) WarningDepth(_ int, args ...any) { g.println(zapcore.WarnLevel, args) }
func (g grpcLog) Error(args ...any)               { g.print(zapcore.ErrorLevel, args) }
func (g grpcLog) Errorln(args ...any)             { g.println(zapcore.ErrorLevel, args) }
func (g grpcLog) Errorf(f string, args ...any)    { g.printf(zapcore.ErrorLevel, f, args) }
func (g grpcLog) ErrorDepth(_ int, args ...any)   { g.println(zapcore.ErrorLevel, args) }
func (g grpcLog) Fatal(args ...any)               { g.print(zapcore.ErrorLevel, args) }
func (g grpcLog) Fatalln(args ...any)             { g.println(zapcore.ErrorLevel, args) }
func (g grpcLog) Fatalf(f string, args ...any)    { g.printf(zapcore.ErrorLevel, f, args) }
func (g grpcLog) FatalDepth(_ int, args ...any)   { g.println(zapcore.ErrorLevel, args) }

// V says which verbosity gRPC may format entries for: none beyond 0, since they would be dropped.
func (grpcLog) V(level int) bool { return level <= 0 }
