package share

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Lines writes log lines with one message, bounded by a Rate, so that a source that causes many can
// neither fill the log nor displace the lines of other sources. Suppressed lines are counted, and
// the count is logged. Lines is safe for concurrent use. Make it with NewLines.
type Lines[S comparable] struct {
	log     *slog.Logger
	level   slog.Level
	message string

	mu   sync.Mutex
	rate Rate[S]
}

// NewLines returns Lines that writes message to log at the given level and rate.
func NewLines[S comparable](log *slog.Logger, level slog.Level, message string, r Rate[S]) *Lines[S] {
	return &Lines[S]{log: log, level: level, message: message, rate: r}
}

// Write writes a line that the source s has caused, or counts it as suppressed.
func (l *Lines[S]) Write(now time.Time, s S, attrs ...any) {
	suppressed, ok := l.take(now, s)
	l.report(suppressed)
	if ok {
		l.log.Log(context.Background(), l.level, l.message, attrs...)
	}
}

// Flush logs how many lines were suppressed in spans that have ended, if any. Write does so too;
// Flush is needed when no further line comes.
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
