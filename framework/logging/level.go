package logging

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	maxLevelBody = 4 << 10
	maxLevelFor  = 24 * time.Hour
	maxRequested = 64 // loggers with a level of their own by request
)

// LevelHandler shows and changes the levels of a running process.
//
// GET answers {"level":"debug","configured":"info","until":"2026-01-02T15:04:05Z"}; until is absent unless the level
// is going to change back by itself. Loggers that have a level of their own are under "loggers", by name, in the same form, with a "note" for names that no logger has used yet.
//
// PUT takes {"level":"debug","for":"10m"}: after that time, at most 24 hours, the configured level is back; without "for" the
// level stays. With {"logger":"discovery", ...} it is the level of that logger and of those under it, and of no other. The level
// "configured" ends a change at once. Each change is logged as a warning.
type LevelHandler struct {
	levels *Levels
	log    *zap.Logger

	timers sync.WaitGroup // callbacks that may still run

	mu         sync.Mutex // guards what follows; nothing is waited for under it
	configured map[string]zapcore.Level
	requested  map[string]*requested
	closed     bool
}

// requested is a level that was set by request.
type requested struct {
	level zapcore.Level
	until time.Time // zero: it stays
	timer *time.Timer
}

var _ http.Handler = (*LevelHandler)(nil)

// NewLevelHandler returns a handler for the levels of a logger; what they are now counts as configured. Close it when the
// process ends.
func NewLevelHandler(levels *Levels, log *zap.Logger) *LevelHandler {
	h := &LevelHandler{levels: levels, log: log, configured: map[string]zapcore.Level{}, requested: map[string]*requested{}}
	now := levels.rules.Load()
	h.configured[everyLogger] = now.all
	for _, r := range now.named {
		h.configured[r.logger] = r.level
	}
	return h
}

// Configure makes the levels of cfg the configured ones, after a reload. A level that was set by request stays until
// its time is over.
func (h *LevelHandler) Configure(cfg Config) error {
	levels, err := cfg.levels()
	if err != nil {
		return fmt.Errorf("configure the log: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.configured = levels
	h.applyLocked()
	return nil
}

// Close gives up pending changes back and waits until none can happen any more. The levels stay as they are.
func (h *LevelHandler) Close() {
	h.mu.Lock()
	h.closed = true
	for _, r := range h.requested {
		h.stopLocked(r)
		r.until = time.Time{}
	}
	h.mu.Unlock()
	h.timers.Wait()
}

// ServeHTTP answers GET, HEAD and PUT.
func (h *LevelHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPut:
		c, err := readChange(http.MaxBytesReader(w, r.Body, maxLevelBody))
		if err == nil {
			err = h.set(c)
		}
		if err != nil {
			http.Error(w, "set the log level: "+err.Error(), http.StatusBadRequest)
			return
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT")
		http.Error(w, fmt.Sprintf("method %q is not allowed; use GET or PUT", r.Method), http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(h.state()) // the peer is gone: nothing to do
}

type levelState struct {
	Level      string     `json:"level"`
	Configured string     `json:"configured"`
	Until      *time.Time `json:"until,omitempty"`
	Note       string     `json:"note,omitempty"`

	Loggers map[string]*levelState `json:"loggers,omitempty"`
}

func (h *LevelHandler) state() *levelState {
	h.mu.Lock()
	defer h.mu.Unlock()
	configured := compile(h.configured)
	of := func(logger string) *levelState {
		s := &levelState{Level: h.levels.Of(logger).String(), Configured: configured.of(logger).String()}
		if r := h.requested[logger]; r != nil && !r.until.IsZero() {
			until := r.until.UTC().Truncate(time.Second)
			s.Until = &until
		}
		return s
	}
	all := of(everyLogger)
	for _, r := range h.levels.rules.Load().named {
		if all.Loggers == nil {
			all.Loggers = map[string]*levelState{}
		}
		all.Loggers[r.logger] = of(r.logger)
		all.Loggers[r.logger].Note = h.levels.heard.doubt(r.logger)
	}
	return all
}

// change is what a PUT asks for.
type change struct {
	logger string
	back   bool // to what is configured, at once
	level  zapcore.Level
	after  time.Duration // 0: for good
}

// readChange reads the body of a PUT.
func readChange(body io.Reader) (c change, err error) {
	const example = `send for example {"level":"debug","for":"10m"}`
	var req struct {
		Logger string `json:"logger"`
		Level  string `json:"level"`
		For    string `json:"for"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return c, fmt.Errorf("%w; %s", err, example)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return c, errors.New("there is more than one object; " + example)
	}
	if c.logger = req.Logger; c.logger != everyLogger {
		if err := checkLogger(c.logger); err != nil {
			return c, fmt.Errorf("logger: %w", err)
		}
	}
	if c.back = req.Level == "configured"; !c.back {
		if c.level, err = parseLevel(req.Level); err != nil {
			return c, fmt.Errorf("level: %w", err)
		}
	}
	if req.For == "" {
		return c, nil
	}
	c.after, err = time.ParseDuration(req.For)
	if err != nil || c.after <= 0 || c.after > maxLevelFor {
		return c, fmt.Errorf("for: %q is no time between 0 and %s; write for example \"10m\"", req.For, "24h")
	}
	return c, nil
}

// set changes a level, for good or for a while, in place of an earlier change.
func (h *LevelHandler) set(c change) error {
	h.mu.Lock()
	before := h.requested[c.logger]
	if before == nil && !c.back && len(h.requested) >= maxRequested {
		h.mu.Unlock()
		return fmt.Errorf("logger: %d loggers have a level by request already; end one with {\"logger\":\"...\",\"level\":\"configured\"}", maxRequested)
	}
	from := h.levels.Of(c.logger)
	if before != nil {
		h.stopLocked(before)
		delete(h.requested, c.logger)
	}
	// That all loggers have the configured level is no change of it, so it follows the configuration again.
	if !c.back && (c.logger != everyLogger || c.level != h.configured[everyLogger]) {
		h.requested[c.logger] = h.startLocked(c)
	}
	h.applyLocked()
	to := h.levels.Of(c.logger)
	h.mu.Unlock()
	h.log.Warn("log level changed by request", of(c.logger), zap.Stringer("from", from), zap.Stringer("to", to), zap.Duration("for", c.after))
	return nil
}

// of names a logger in a log line, where the key "logger" is taken.
func of(logger string) zap.Field {
	if logger == everyLogger {
		return zap.Skip()
	}
	return zap.String("of", logger)
}

// startLocked makes a change and has it end after its time.
func (h *LevelHandler) startLocked(c change) *requested {
	r := &requested{level: c.level}
	if c.after == 0 || h.closed {
		return r
	}
	r.until = time.Now().Add(c.after)
	h.timers.Add(1)
	r.timer = time.AfterFunc(c.after, func() {
		defer h.timers.Done()
		h.back(c.logger, r)
	})
	return r
}

// stopLocked gives up the pending change back, if there is one.
func (h *LevelHandler) stopLocked(r *requested) {
	if r.timer != nil && r.timer.Stop() {
		h.timers.Done()
	}
	r.timer = nil
}

// back returns to the configured level unless something else was set since.
func (h *LevelHandler) back(logger string, r *requested) {
	h.mu.Lock()
	if h.requested[logger] != r || h.closed {
		h.mu.Unlock()
		return
	}
	from := h.levels.Of(logger)
	delete(h.requested, logger)
	h.applyLocked()
	to := h.levels.Of(logger)
	h.mu.Unlock()
	h.log.Warn("log level is back as configured", of(logger), zap.Stringer("from", from), zap.Stringer("to", to))
}

// applyLocked puts what was requested over what is configured.
func (h *LevelHandler) applyLocked() {
	levels := maps.Clone(h.configured)
	for logger, r := range h.requested {
		levels[logger] = r.level
	}
	h.levels.rules.Store(compile(levels))
}
