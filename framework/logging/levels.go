package logging

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Levels is what a logger of [New] and those that are named after it write, as it applies now: one level, and others for
// loggers by name. A [LevelHandler] changes it. It is safe for concurrent use.
type Levels struct {
	rules atomic.Pointer[rules] // read with every entry, replaced as a whole
	heard heard
}

// NewLevels returns levels as cfg says, for loggers that are not made by [New].
func NewLevels(cfg Config) (*Levels, error) {
	configured, err := cfg.levels()
	if err != nil {
		return nil, err
	}
	l := &Levels{}
	l.rules.Store(compile(configured))
	return l, nil
}

// Of returns the level of the logger with that name: the level that was set for the longest of the names that it is under, where
// "discovery" stands for itself and for "discovery.etcd", else that of all.
func (l *Levels) Of(logger string) zapcore.Level { return l.rules.Load().of(logger) }

// Core returns next with these levels in front of it; next should take every level.
func (l *Levels) Core(next zapcore.Core) zapcore.Core { return core{next, l} }

// rules are levels in the form in which they are asked for. They do not change.
type rules struct {
	all   zapcore.Level
	least zapcore.Level // the lowest one that any logger has
	named []rule        // the longest name first; nearly always none
}

type rule struct {
	logger string
	level  zapcore.Level
}

// everyLogger is the name under which the level of all loggers is kept beside those of single ones.
const everyLogger = ""

func compile(levels map[string]zapcore.Level) *rules {
	r := &rules{all: levels[everyLogger], least: levels[everyLogger]}
	for logger, level := range levels {
		if logger == everyLogger {
			continue
		}
		r.named = append(r.named, rule{logger, level})
		r.least = min(r.least, level)
	}
	slices.SortFunc(r.named, func(a, b rule) int {
		return cmp.Or(cmp.Compare(len(b.logger), len(a.logger)), cmp.Compare(a.logger, b.logger))
	})
	return r
}

func (r *rules) of(logger string) zapcore.Level {
	for _, n := range r.named {
		if rest, under := strings.CutPrefix(logger, n.logger); under && (rest == "" || rest[0] == '.') {
			return n.level
		}
	}
	return r.all
}

// core drops entries below the level of their logger.
type core struct {
	zapcore.Core
	levels *Levels
}

// Enabled is asked before there is an entry, so it can't know the logger: one that is set to debug makes all others look
// twice.
func (c core) Enabled(level zapcore.Level) bool { return level >= c.levels.rules.Load().least }

// Level is the lowest level that any logger has.
func (c core) Level() zapcore.Level { return c.levels.rules.Load().least }

// With implements [zapcore.Core].
func (c core) With(fields []zap.Field) zapcore.Core { return core{c.Core.With(fields), c.levels} }

// Check implements [zapcore.Core].
func (c core) Check(entry zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	c.levels.heard.note(entry.LoggerName)
	if entry.Level < c.levels.rules.Load().of(entry.LoggerName) {
		return ce
	}
	return c.Core.Check(entry, ce)
}
