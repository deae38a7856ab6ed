package share

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Lines writes lines with one message to a log, within a Rate for each source, so that a stranger
// who causes them can neither fill the log nor hide what others cause. Those that are not written
// are counted, and the count is a line of its own. Lines is safe for concurrent use.
//
// NewLines makes it.
type Lines[S comparable] struct {
	log     *slog.Logger
	level   slog.Level
	message string

	mu   sync.Mutex
	rate Rate[S]
}

// NewLines returns Lines that writes each source's lines, and all of them, at the given rate.
func NewLines[S comparable](log *slog.Logger, level slog.Level, message string, r Rate[S]) *Lines[S] {
	return &Lines[S]{log: log, level: level, message: message, rate: r}
}

// Write writes a line that s has caused, or counts it.
func (l *Lines[S]) Write(now time.Time, s S, attrs ...any) {
	suppressed, ok := l.take(now, s)
	l.report(suppressed)
	if ok {
		l.log.Log(context.Background(), l.level, l.message, attrs...)
	}
}

// Flush writes how many lines were not written in the spans that are over, if any. Write does so
// too; Flush is for when no further line comes.
func (l *Lines[S]) Flush(now time.Time) {
	l.mu.Lock()
	n := l.rate.Suppressed(now)
	l.mu.Unlock()
	l.report(n)
}

func (l *Lines[S]) take(now time.Time, s S) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	suppressed = l.rate.Suppressed(now)
	return suppressed, l.rate.Allow(now, s)
}

func (l *Lines[S]) report(suppressed int) {
	if suppressed > 0 {
		l.log.Log(context.Background(), l.level, "log lines suppressed", "line", l.message, "count", suppressed)
	}
}
