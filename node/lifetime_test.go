package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// close cancels the contexts of calls, then closes what the object holds, and returns when all work
// has ended. A second close waits, too, and does not shut down again.
func TestLifetimeClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLifetime(t.Context())
		var shutDown, ended time.Time
		l.spawn(func() {
			ctx, cancel := l.withTimeout(time.Hour)
			defer cancel()
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = time.Now()
		})
		start := time.Now()
		l.close(func() {
			if !l.isClosed() || !errors.Is(l.ctx.Err(), context.Canceled) {
				t.Error("shutDown runs before the contexts are canceled")
			}
			shutDown = time.Now()
		})
		l.close(func() { t.Error("shut down twice") })
		if !shutDown.Equal(start) || ended.Sub(start) != time.Second || time.Since(start) != time.Second {
			t.Errorf("shut down at %v, work ended at %v, closed at %v; want 0s, 1s, 1s",
				shutDown.Sub(start), ended.Sub(start), time.Since(start))
		}
	})
}

// Once close has begun, no work begins.
func TestLifetimeRefusesWork(t *testing.T) {
	l := newLifetime(t.Context())
	if !l.begin() {
		t.Fatal("work is refused before close")
	}
	l.done()
	l.close(func() {})
	if l.begin() {
		t.Error("begin after close")
	}
	if l.spawn(func() { t.Error("a goroutine runs after close") }) {
		t.Error("spawn after close")
	}
}

// The end of the parent's context refuses work as well: a conn ends with its node.
func TestLifetimeEndsWithParent(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	l := newLifetime(parent)
	defer l.close(func() {})
	cancel()
	if !l.isClosed() || l.begin() {
		t.Error("the lifetime goes on after its parent")
	}
}
