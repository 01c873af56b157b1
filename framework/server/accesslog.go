package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// AccessLog configures [SlotAccessLog]. Each line tells method, code, how long the call took, the peer's address, what it calls
// itself (user_agent), the trace and, with authentication, who it is; sizes of messages are without compression. The lines come from
// the logger "server.access", so that they have a level of their own (log.levels).
type AccessLog struct {
	// Errors logs calls that failed by a fault of the server: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
	// UNAVAILABLE, DATA_LOSS. Default true. Streams that end because the server stops are not among them.
	Errors bool `config:"errors" reload:"live"`
	// Slow logs unary calls that took at least this long. Default 0, none: what is slow differs between services.
	Slow time.Duration `config:"slow" reload:"live"`
	// All logs every call, at level info. Default false; a line costs some microseconds, and a busy server writes more than
	// anybody reads.
	All bool `config:"all" reload:"live"`
	// MaxPerSecond bounds the lines of a second, those of failed and slow calls apart from the rest, so that a storm of calls is
	// none of lines; a later line tells how many were left out before it. Default 100; 0 means no bound.
	MaxPerSecond int `config:"max_per_second" reload:"live"`
}

// DefaultAccessLog returns the defaults named at the fields.
func DefaultAccessLog() AccessLog { return AccessLog{Errors: true, MaxPerSecond: 100} }

func (a AccessLog) validate() error {
	switch {
	case a.Slow < 0:
		return fmt.Errorf("slow: %s is negative; use 0 to log no slow calls", a.Slow)
	case a.MaxPerSecond < 0:
		return fmt.Errorf("max_per_second: %d is negative; use 0 for no bound", a.MaxPerSecond)
	}
	return nil
}

// off reports whether no call can be worth a line.
func (a AccessLog) off() bool { return !a.Errors && a.Slow == 0 && !a.All }

// SetAccessLog changes which of the calls that begin later are worth a line.
func (s *Server) SetAccessLog(cfg AccessLog) error {
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("changing the access log: %w", err)
	}
	s.access.set(cfg)
	return nil
}

// accessLog logs calls that an operator wants to see one by one.
type accessLog struct {
	log      logs
	draining <-chan struct{}
	rules    atomic.Pointer[accessRules] // nil: none is worth a line
	refused  refusedCalls
}

type accessRules struct {
	AccessLog
	troubled, rest lineLimit
}

func newAccessLog(cfg AccessLog, log logs, draining <-chan struct{}) *accessLog {
	log.Logger = log.Named("access")
	a := &accessLog{log: log, draining: draining}
	a.set(cfg)
	return a
}

func (a *accessLog) set(cfg AccessLog) {
	if cfg.off() {
		a.rules.Store(nil)
		return
	}
	a.rules.Store(&accessRules{AccessLog: cfg, troubled: lineLimit{max: cfg.MaxPerSecond}, rest: lineLimit{max: cfg.MaxPerSecond}})
}

// unary must be deferred directly, with the moment the call came.
func (a *accessLog) unary(ctx context.Context, r *accessRules, method string, start time.Time, req any, resp *any, err *error) {
	took := time.Since(start)
	entry, leftOut := a.check(r, method, *err, r.Slow > 0 && took >= r.Slow)
	if entry == nil {
		return
	}
	fields := a.fields(ctx, method, took, *err, leftOut)
	fields = append(fields, zap.Int("request_bytes", size(req)))
	if *err == nil {
		fields = append(fields, zap.Int("response_bytes", size(*resp)))
	}
	entry.Write(fields...)
}

// stream is unary without the notion of slowness: streams live as long as they live.
func (a *accessLog) stream(ss *countedStream, r *accessRules, method string, start time.Time, err *error) {
	if a.isDraining() && codeOf(*err) == codes.Unavailable && !r.All {
		return // the peer was told to go elsewhere, which is no fault
	}
	entry, leftOut := a.check(r, method, *err, false)
	if entry == nil {
		return
	}
	fields := a.fields(ss.Context(), method, time.Since(start), *err, leftOut)
	fields = append(fields, zap.Int64("received", ss.received.Load()), zap.Int64("sent", ss.sent.Load()))
	if ss.bytes {
		fields = append(fields, zap.Int64("received_bytes", ss.receivedBytes.Load()), zap.Int64("sent_bytes", ss.sentBytes.Load()))
	}
	entry.Write(fields...)
}

func (a *accessLog) isDraining() bool {
	select {
	case <-a.draining:
		return true
	default:
		return false
	}
}

// check returns the entry to write, or nil, and how many were not written before it. Calls that were refused for being
// too many have none of their own.
func (a *accessLog) check(r *accessRules, method string, err error, slow bool) (entry *zapcore.CheckedEntry, leftOut int) {
	refused := err != nil && pushedBack(err)
	if refused && r.All {
		a.refused.add(method, err)
	}
	if r.All && a.refused.waiting.Load() {
		a.tellRefused(r, time.Now())
	}
	if refused {
		return nil, 0
	}
	limit := &r.troubled
	switch {
	case r.Errors && serverFault(err):
		entry = a.log.Check(zapcore.ErrorLevel, "call failed")
	case slow:
		entry = a.log.Check(zapcore.WarnLevel, "slow call")
	case r.All:
		entry, limit = a.log.Check(zapcore.InfoLevel, "call"), &r.rest
	}
	if entry == nil {
		return nil, 0
	}
	ok, leftOut := limit.take(time.Now())
	if !ok {
		return nil, 0
	}
	return entry, leftOut
}

func (a *accessLog) fields(ctx context.Context, method string, took time.Duration, err error, leftOut int) []zap.Field {
	fields := make([]zap.Field, 0, 12)
	fields = append(fields, zap.String("method", method), zap.Stringer("code", codeOf(err)), zap.Duration("took", took))
	if p, ok := peer.FromContext(ctx); ok {
		fields = append(fields, zap.Stringer("peer", p.Addr))
	}
	if agent := metadata.ValueFromIncomingContext(ctx, "user-agent"); len(agent) > 0 {
		fields = append(fields, zap.String("user_agent", shorten(agent[0], maxStrangersText)))
	}
	if err != nil {
		fields = append(fields, zap.String("error", shorten(err.Error(), maxErrorText)))
	}
	if leftOut > 0 {
		fields = append(fields, zap.Int("left_out", leftOut))
	}
	if a.log.fields != nil {
		fields = append(fields, a.log.fields(ctx))
	}
	return fields
}

const (
	// maxStrangersText bounds what a caller says of itself.
	maxStrangersText = 200
	// maxErrorText bounds errors, which may quote what a caller sent.
	maxErrorText = 500
)

// shorten keeps what a stranger wrote from filling the log.
func shorten(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// size is that of a message on the wire, before compression.
func size(message any) int {
	if m, ok := message.(proto.Message); ok {
		return proto.Size(m)
	}
	return 0
}

// countedStream counts the messages of a stream; there is one only while a line may be written about it.
type countedStream struct {
	grpc.ServerStream
	bytes                                    bool // measure messages, too, which takes time with each
	received, receivedBytes, sent, sentBytes atomic.Int64
}

// RecvMsg implements [grpc.ServerStream].
func (s *countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.received.Add(1)
		if s.bytes {
			s.receivedBytes.Add(int64(size(m)))
		}
	}
	return err
}

// SendMsg implements [grpc.ServerStream].
func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.sent.Add(1)
		if s.bytes {
			s.sentBytes.Add(int64(size(m)))
		}
	}
	return err
}

// lineLimit bounds the lines of each second.
type lineLimit struct {
	max int // 0: no bound

	mu      sync.Mutex
	second  int64
	taken   int
	leftOut int
}

// take reports whether there is room for a line, and how many there was none for since the last one.
func (l *lineLimit) take(now time.Time) (ok bool, leftOut int) {
	if l.max == 0 {
		return true, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.roomLocked(now) {
		l.leftOut++
		return false, 0
	}
	leftOut, l.leftOut = l.leftOut, 0
	return true, leftOut
}

// room is take for a line that can wait: nothing is left out if there is none.
func (l *lineLimit) room(now time.Time) bool {
	if l.max == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.roomLocked(now)
}

func (l *lineLimit) roomLocked(now time.Time) bool {
	if second := now.Unix(); second != l.second {
		l.second, l.taken = second, 0
	}
	if l.taken >= l.max {
		return false
	}
	l.taken++
	return true
}

// serverFault reports whether an error is the server's rather than the caller's.
func serverFault(err error) bool {
	switch codeOf(err) {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

// codeOf is the code that gRPC sends for an error of a handler.
func codeOf(err error) codes.Code {
	if _, has := status.FromError(err); !has {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return codes.DeadlineExceeded
		case errors.Is(err, context.Canceled):
			return codes.Canceled
		}
	}
	return status.Code(err)
}
