package logging

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/newsvc/newsvc/framework/internal/nearest"
)

const (
	maxHeard = 256 // names that are kept: one that is made for each request must not fill the memory
	tellMost = 12
)

// heard is the names of the loggers that have had something to say, at whatever level that is written now.
type heard struct {
	mu    sync.Mutex                          // of those that add a name
	names atomic.Pointer[map[string]struct{}] // read with every entry, replaced as a whole
}

func (h *heard) note(logger string) {
	if logger == everyLogger || h.has(logger) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := map[string]struct{}{}
	if p := h.names.Load(); p != nil {
		now = maps.Clone(*p)
	}
	if len(now) < maxHeard {
		now[logger] = struct{}{}
		h.names.Store(&now)
	}
}

func (h *heard) has(logger string) bool {
	p := h.names.Load()
	if p == nil {
		return false
	}
	_, is := (*p)[logger]
	return is || len(*p) >= maxHeard
}

// doubt says that a level is for a logger that nobody has heard of; empty for one that there is. It is no mistake: a logger
// may be made at any time, and one that only has debug lines is not heard before its level lets them pass.
func (h *heard) doubt(logger string) string {
	var all []string
	if p := h.names.Load(); p != nil {
		all = slices.Sorted(maps.Keys(*p))
	}
	for _, name := range all {
		if rest, under := strings.CutPrefix(name, logger); under && (rest == "" || rest[0] == '.') {
			return ""
		}
	}
	if len(all) == 0 || len(all) >= maxHeard {
		return "" // there is nothing to compare it with, or there may be more
	}
	text := fmt.Sprintf("no logger %q has logged anything yet", logger)
	if near := nearest.Names(logger, all, 1); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %q?", near[0])
	}
	text += "; known: " + strings.Join(all[:min(len(all), tellMost)], ", ")
	if more := len(all) - tellMost; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
