package userstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// Dials to one target wait for each other when there are too many. Dials to another target do not
// wait. A target without dials is forgotten.
func TestDialLimiter(t *testing.T) {
	var d dialLimiter
	to, other := netip.MustParseAddrPort("100.64.0.2:80"), netip.MustParseAddrPort("100.64.0.2:81")
	never := make(chan struct{})
	var turns []*dialTarget
	for range maxUnanswered {
		target, err := d.begin(t.Context(), never, to)
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, target)
	}
	next := make(chan error)
	go func() {
		target, err := d.begin(t.Context(), never, to)
		next <- err
		target.end()
		next <- nil
	}()
	elsewhere, err := d.begin(t.Context(), never, other)
	if err != nil {
		t.Fatalf("another target: %v", err)
	}
	elsewhere.end()
	select {
	case <-next:
		t.Error("more than maxUnanswered dials have a turn")
	default:
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := d.begin(ctx, never, to); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("begin after the deadline: %v, want ETIMEDOUT", err)
	}
	closed := make(chan struct{})
	close(closed)
	if _, err := d.begin(t.Context(), closed, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("begin in a closed stack: %v, want net.ErrClosed", err)
	}
	turns[0].end()
	if err := <-next; err != nil {
		t.Errorf("begin after end: %v", err)
	}
	<-next
	for _, target := range turns[1:] {
		target.end()
	}
	if len(d.to) != 0 {
		t.Errorf("%d targets are kept", len(d.to))
	}
}

// A target counts as answering for connectRetryDelay after an answer.
func TestDialTargetIsAnswering(t *testing.T) {
	var target dialTarget
	if target.isAnswering() {
		t.Error("isAnswering before any answer")
	}
	target.noteAnswer()
	if !target.isAnswering() {
		t.Error("not isAnswering after an answer")
	}
	target.answered.Store(time.Now().Add(-connectRetryDelay).UnixNano())
	if target.isAnswering() {
		t.Error("isAnswering long after an answer")
	}
}
