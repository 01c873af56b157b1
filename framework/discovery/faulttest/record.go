package faulttest

import (
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	probev1 "github.com/newsvc/newsvc/proto/probe/v1"
)

// Codes of failures that no gRPC status tells.
const (
	// CodeMisrouted is an answer that another service gave than the one that was called.
	CodeMisrouted = "Misrouted"
	// CodeNoConnection is a call whose deadline passed while Dial had not returned a connection.
	CodeNoConnection = "NoConnection"
	// CodeNotSent is a call that was due while too many others were under way.
	CodeNotSent = "NotSent"
)

// Kinds of calls in a [Failure].
const (
	KindRead   = "read"
	KindWrite  = "write"
	KindStream = "stream"
)

// keptFailures is how many failures a report shows; the others are counted only.
const keptFailures = 50

// Failure is one call that failed, or one stream that was lost.
type Failure struct {
	// Due is when the call was to be made, for a stream when it was opened; At is when it failed.
	Due, At time.Time
	// Kind is one of the Kind constants, Code the name of a gRPC code or one of the Code constants.
	Kind, Code string
	// Text is the error's own.
	Text string
	// Server is the address of the server that had the call, as far as that is known.
	Server string
}

// Answered is what one server answered.
type Answered struct {
	// Addr and PID are the server's. In Report.ByServer the PID is that of the latest answer.
	Addr string
	PID  int
	// First and Last are the times of the first and the latest answer, Count is their number.
	First, Last time.Time
	Count       int64
}

// Unanswered is what one server was asked and had not answered by the deadline. Its connection may be there all the time.
type Unanswered struct {
	// Count is the number of unary calls, Writes those of them that must not be repeated.
	Count, Writes int64
	// LastDue is when the latest of them was due.
	LastDue time.Time
}

// Streams is what became of the streams of a client.
type Streams struct {
	// Open is how many are open now.
	Open int
	// Opened have had a first message. Drained ended with the server's own word that it drains, Lost otherwise.
	Opened, Drained, Lost int64
	// OpenFailed ended before their first message: nothing was lost, another attempt follows.
	OpenFailed int64
	// Messages came on all of them.
	Messages int64
	// Failures are the first streams that were lost.
	Failures []Failure
}

// Report is what a client has seen since the phase began. Calls are counted when they end.
type Report struct {
	// Began is when the phase began, Until when the report was made.
	Began, Until time.Time
	// Total counts unary calls, Writes those of them that must not be repeated. Failed and FailedWrites are the
	// numbers of those that failed.
	Total, Writes, Failed, FailedWrites int64
	// Failures are the first failed calls.
	Failures []Failure
	// Misrouted counts the answers that another service gave; they count as failed, too.
	Misrouted int64
	// ByServer has the servers that answered by address, ByProcess by process id. Streams count as calls here.
	ByServer  map[string]Answered
	ByProcess map[int]Answered
	// Unanswered has the calls whose deadline passed at a server, by its address; they count as failed, too.
	Unanswered map[string]Unanswered
	// WorstGap is the longest time without any successful call, WorstGapAt is when it began.
	WorstGap   time.Duration
	WorstGapAt time.Time
	// Slowest is the longest time that a call took that succeeded.
	Slowest time.Duration
	// LateBy is the most by which a call returned after its deadline.
	LateBy time.Duration
	// Behind is the most by which a call was made later than it was due, because the machine was busy; a call's deadline
	// counts from when it was due. Skipped calls were not made because the process stood still for a second or more.
	Behind  time.Duration
	Skipped int64
	// Dialed is when the connection was there, zero while it is not; it does not belong to the phase. DialErrors are
	// attempts that failed, DialError is the latest.
	Dialed     time.Time
	DialErrors int64
	DialError  string
	// Streams is about the streams.
	Streams Streams
	// CloseTook is how long closing the connection took; only in the report of Stop.
	CloseTook time.Duration
}

// Rate is the number of calls a second that ended in the phase.
func (r Report) Rate() float64 {
	took := r.Until.Sub(r.Began).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(r.Total) / took
}

// recorder takes down what a client sees. It is safe for concurrent use.
type recorder struct {
	service string

	mu          sync.Mutex
	r           Report
	lastSuccess time.Time // or the beginning of the phase
	dialed      time.Time
	dialErrors  int64
	dialError   string
	open        int
}

func newRecorder(service string, now time.Time) *recorder {
	c := &recorder{service: service}
	c.mark(now)
	return c
}

// mark begins a phase and reports on the one that it ends.
func (c *recorder) mark(now time.Time) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.reportLocked(now)
	c.r = Report{Began: now, ByServer: map[string]Answered{}, ByProcess: map[int]Answered{}, Unanswered: map[string]Unanswered{}}
	c.lastSuccess = now
	return last
}

// report is the phase up to now.
func (c *recorder) report(now time.Time) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reportLocked(now)
}

func (c *recorder) reportLocked(now time.Time) Report {
	r := c.r
	r.Until = now
	r.ByServer, r.ByProcess, r.Unanswered = maps.Clone(r.ByServer), maps.Clone(r.ByProcess), maps.Clone(r.Unanswered)
	if gap := now.Sub(c.lastSuccess); gap > r.WorstGap {
		r.WorstGap, r.WorstGapAt = gap, c.lastSuccess
	}
	r.Failures, r.Streams.Failures = slices.Clone(r.Failures), slices.Clone(r.Streams.Failures)
	r.Dialed, r.DialErrors, r.DialError, r.Streams.Open = c.dialed, c.dialErrors, c.dialError, c.open
	return r
}

// answered is what a server has answered in this phase, by its address or, if that is empty, by its process id.
func (c *recorder) answered(addr string, pid int) Answered {
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr == "" {
		return c.r.ByProcess[pid]
	}
	return c.r.ByServer[addr]
}

// call is one unary call and what became of it.
type call struct {
	kind          string
	due, deadline time.Time
	by            *probev1.Answerer // nil when it failed
	code          string            // empty: that of err
	err           error
	peer          string
}

// ended takes down a call.
func (c *recorder) ended(x call, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Total++
	if x.kind == KindWrite {
		c.r.Writes++
	}
	c.r.LateBy = max(c.r.LateBy, now.Sub(x.deadline))
	if x.err == nil {
		c.answer(x.by, now)
		if x.by.GetService() == c.service {
			c.r.Slowest = max(c.r.Slowest, now.Sub(x.due))
			return
		}
		c.r.Misrouted++
		x.code, x.err = CodeMisrouted, status.Errorf(codes.Internal, "service %q answered", x.by.GetService())
	}
	c.r.Failed++
	if x.kind == KindWrite {
		c.r.FailedWrites++
	}
	f := x.failure(now)
	if f.unanswered() {
		c.r.Unanswered[f.Server] = c.r.Unanswered[f.Server].plus(f)
	}
	c.r.Failures = keep(c.r.Failures, f)
}

// unanswered tells whether the deadline passed while a server had the call.
func (f Failure) unanswered() bool {
	return f.Server != "" && f.Code == codes.DeadlineExceeded.String()
}

func (u Unanswered) plus(f Failure) Unanswered {
	u.Count++
	if f.Kind == KindWrite {
		u.Writes++
	}
	if f.Due.After(u.LastDue) {
		u.LastDue = f.Due
	}
	return u
}

func (x call) failure(now time.Time) Failure {
	f := Failure{Due: x.due, At: now, Kind: x.kind, Code: x.code, Text: x.err.Error(), Server: x.peer}
	if f.Code == "" {
		f.Code = status.Code(x.err).String()
	}
	return f
}

// answer takes down who answered. The lock is held.
func (c *recorder) answer(by *probev1.Answerer, now time.Time) {
	addr, pid := by.GetAddr(), int(by.GetPid())
	c.r.ByServer[addr] = c.r.ByServer[addr].plus(addr, pid, now)
	c.r.ByProcess[pid] = c.r.ByProcess[pid].plus(addr, pid, now)
	if by.GetService() != c.service {
		return
	}
	if gap := now.Sub(c.lastSuccess); gap > c.r.WorstGap {
		c.r.WorstGap, c.r.WorstGapAt = gap, c.lastSuccess
	}
	c.lastSuccess = now
}

func (a Answered) plus(addr string, pid int, now time.Time) Answered {
	if a.Count == 0 {
		a.First = now
	}
	return Answered{Addr: addr, PID: pid, First: a.First, Last: now, Count: a.Count + 1}
}

func keep(all []Failure, f Failure) []Failure {
	if len(all) < keptFailures {
		return append(all, f)
	}
	return all
}

// behind takes down that a call was made late, skipped that calls were not made at all.
func (c *recorder) behind(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Behind = max(c.r.Behind, by)
}

func (c *recorder) skipped(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Skipped += n
}

// dial takes down the end of an attempt to get a connection.
func (c *recorder) dial(err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.dialed = now
		return
	}
	c.dialErrors++
	c.dialError = err.Error()
}

// message takes down a message of a stream; first says that it is the first one.
func (c *recorder) message(by *probev1.Answerer, first bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Streams.Messages++
	if !first {
		return
	}
	c.r.Streams.Opened++
	c.open++
	addr, pid := by.GetAddr(), int(by.GetPid())
	c.r.ByServer[addr] = c.r.ByServer[addr].plus(addr, pid, now)
	c.r.ByProcess[pid] = c.r.ByProcess[pid].plus(addr, pid, now)
	if by.GetService() != c.service {
		c.r.Misrouted++
	}
}

// streamEnded takes down the end of a stream.
func (c *recorder) streamEnded(x call, opened, drained bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !opened {
		c.r.Streams.OpenFailed++
		return
	}
	c.open--
	if drained {
		c.r.Streams.Drained++
		return
	}
	c.r.Streams.Lost++
	c.r.Streams.Failures = keep(c.r.Streams.Failures, x.failure(now))
}

// streamLeft takes down the end of a stream that the client left itself.
func (c *recorder) streamLeft(opened bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if opened {
		c.open--
	}
}
