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

// Dials to one target take turns, those to another do not wait for them, and nothing is kept of a
// target without dials.
func TestDials(t *testing.T) {
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
		t.Error("one too many has a turn")
	default:
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := d.begin(ctx, never, to); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("a turn that does not come in time: %v", err)
	}
	closed := make(chan struct{})
	close(closed)
	if _, err := d.begin(t.Context(), closed, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a turn in a closed stack: %v", err)
	}
	turns[0].end()
	if err := <-next; err != nil {
		t.Errorf("the next turn: %v", err)
	}
	<-next
	for _, target := range turns[1:] {
		target.end()
	}
	if len(d.to) != 0 {
		t.Errorf("%d targets are kept", len(d.to))
	}
}

// A target that has answered is taken to be there for as long as an unanswered SYN is waited for.
func TestDialTargetIsAnswering(t *testing.T) {
	var target dialTarget
	if target.isAnswering() {
		t.Error("a target that never answered")
	}
	target.noteAnswer()
	if !target.isAnswering() {
		t.Error("a target that has just answered")
	}
	target.answered.Store(time.Now().Add(-connectRetryDelay).UnixNano())
	if target.isAnswering() {
		t.Error("a target that answered long ago")
	}
}
