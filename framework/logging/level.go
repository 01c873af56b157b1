package logging

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	maxLevelBody = 4 << 10
	maxLevelFor  = 24 * time.Hour
)

// LevelHandler shows and changes the level of a running process.
//
// GET answers {"level":"debug","configured":"info","until":"2026-01-02T15:04:05Z"}; until is absent unless the level
// is going to change back by itself. PUT takes {"level":"debug","for":"10m"}: after that time, at most 24 hours, the
// configured level is back; without "for" the level stays. Each change is logged as a warning.
type LevelHandler struct {
	level zap.AtomicLevel
	log   *zap.Logger

	timers sync.WaitGroup // callbacks that may still run

	mu         sync.Mutex // guards what follows; nothing is waited for under it
	configured zapcore.Level
	overridden bool
	until      time.Time // zero: the level stays
	timer      *time.Timer
	turn       int // counts changes: a timer that comes late knows itself outdated
	closed     bool
}

var _ http.Handler = (*LevelHandler)(nil)

// NewLevelHandler returns a handler for the level of a logger; what the level is now counts as configured. Close it
// when the process ends.
func NewLevelHandler(level zap.AtomicLevel, log *zap.Logger) *LevelHandler {
	return &LevelHandler{level: level, log: log, configured: level.Level()}
}

// Configure makes the level of cfg the configured one, after a reload. A level that was set by request stays until
// its time is over.
func (h *LevelHandler) Configure(cfg Config) error {
	level, err := parseLevel(cfg.Level)
	if err != nil {
		return fmt.Errorf("configure the log level: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.configured = level
	if !h.overridden {
		h.level.SetLevel(level)
	}
	return nil
}

// Close gives up a pending change back and waits until none can happen any more. The level stays as it is.
func (h *LevelHandler) Close() {
	h.mu.Lock()
	h.closed = true
	h.stopLocked()
	h.mu.Unlock()
	h.timers.Wait()
}

// ServeHTTP answers GET, HEAD and PUT.
func (h *LevelHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPut:
		level, after, err := readLevel(http.MaxBytesReader(w, r.Body, maxLevelBody))
		if err != nil {
			http.Error(w, "set the log level: "+err.Error(), http.StatusBadRequest)
			return
		}
		h.set(level, after)
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
}

func (h *LevelHandler) state() levelState {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := levelState{Level: h.level.Level().String(), Configured: h.configured.String()}
	if !h.until.IsZero() {
		until := h.until.UTC().Truncate(time.Second)
		s.Until = &until
	}
	return s
}

// readLevel reads the body of a PUT. A duration of 0 means for good.
func readLevel(body io.Reader) (zapcore.Level, time.Duration, error) {
	const example = `send for example {"level":"debug","for":"10m"}`
	var req struct {
		Level string `json:"level"`
		For   string `json:"for"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return 0, 0, fmt.Errorf("%w; %s", err, example)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return 0, 0, errors.New("there is more than one object; " + example)
	}
	level, err := parseLevel(req.Level)
	if err != nil {
		return 0, 0, fmt.Errorf("level: %w", err)
	}
	if req.For == "" {
		return level, 0, nil
	}
	after, err := time.ParseDuration(req.For)
	if err != nil || after <= 0 || after > maxLevelFor {
		return 0, 0, fmt.Errorf("for: %q is no time between 0 and %s; write for example \"10m\"", req.For, "24h")
	}
	return level, after, nil
}

// set changes the level, for good or for a while, in place of an earlier change.
func (h *LevelHandler) set(level zapcore.Level, after time.Duration) {
	h.mu.Lock()
	h.stopLocked()
	from := h.level.Level()
	h.level.SetLevel(level)
	h.overridden = level != h.configured
	if after > 0 && h.overridden && !h.closed {
		h.until = time.Now().Add(after)
		turn := h.turn
		h.timers.Add(1)
		h.timer = time.AfterFunc(after, func() {
			defer h.timers.Done()
			h.back(turn)
		})
	}
	h.mu.Unlock()
	h.log.Warn("log level changed by request", zap.Stringer("from", from), zap.Stringer("to", level), zap.Duration("for", after))
}

// stopLocked gives up the pending change back, if there is one, and makes a callback that already runs do nothing.
func (h *LevelHandler) stopLocked() {
	h.turn++
	h.until = time.Time{}
	if h.timer != nil && h.timer.Stop() {
		h.timers.Done()
	}
	h.timer = nil
}

// back returns to the configured level unless something else was set since.
func (h *LevelHandler) back(turn int) {
	h.mu.Lock()
	if turn != h.turn {
		h.mu.Unlock()
		return
	}
	h.turn++
	from, to := h.level.Level(), h.configured
	h.level.SetLevel(to)
	h.overridden, h.until, h.timer = false, time.Time{}, nil
	h.mu.Unlock()
	h.log.Warn("log level is back as configured", zap.Stringer("from", from), zap.Stringer("to", to))
}
