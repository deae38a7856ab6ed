package service

import (
	"log/slog"
	"testing"
	"testing/synctest"
)

// A file that is never read to its end does not keep the server from ending.
func TestEndWhileFileIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Runner{log: slog.New(slog.DiscardHandler), filesc: make(chan struct{}), stopc: make(chan struct{})}
		r.Close() // the bubble panics if this waits for good
	})
}
