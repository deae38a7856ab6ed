package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// A node is ready when its mesh can be used and each target of Config.WaitFor has answered once.

const (
	awaitFirstPause = 50 * time.Millisecond // between the first two attempts; each further pause is half as long again
	awaitMaxPause   = time.Second
	awaitFirst      = time.Second     // time for the first attempt, so that the reason is known soon; doubled each time
	awaitMost       = 5 * time.Second // bounds the time for one attempt
)

// awaits are the targets of Config.WaitFor that have not answered yet.
type awaits struct {
	mu   sync.Mutex
	open map[string]error // the error of the last attempt; nil before its end
}

func (a *awaits) set(target string, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = make(map[string]error)
	}
	a.open[target] = why
}

func (a *awaits) answered(target string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, target)
}

// targets returns the targets that have not answered, in order.
func (a *awaits) targets() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.open))
}

// reason says which targets have not answered, and why; empty if all have.
func (a *awaits) reason() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var texts []string
	for target, why := range a.open {
		text := "waiting for " + target
		if why != nil {
			text += ": " + why.Error()
		} else {
			text += ": no answer yet"
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// await tries a target until it answers or ctx ends.
func (a *awaits) await(ctx context.Context, target string, try func(context.Context, string, time.Duration) error) {
	pause := awaitFirstPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for patience := awaitFirst; ; patience = min(2*patience, awaitMost) {
		err := try(ctx, target, patience)
		if err == nil {
			a.answered(target)
			return
		}
		if ctx.Err() != nil {
			return
		}
		a.set(target, err)
		timer.Reset(pause)
		pause = min(pause*3/2, awaitMaxPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// tryTarget connects to a target with a port, and pings one without.
func (n *Node) tryTarget(ctx context.Context, target string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, _, err := net.SplitHostPort(target); err != nil {
		_, err := n.Ping(ctx, target)
		return err
	}
	c, err := n.dialer.dial(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return c.Close()
}

// notReadyError is the reason of Status why a node is not ready. It wraps the cause if that is
// known.
type notReadyError struct {
	reason string
	cause  error
}

func (e *notReadyError) Error() string { return e.reason }
func (e *notReadyError) Unwrap() error { return e.cause }

// NotReady returns why the mesh cannot be used yet, or nil. The error wraps ErrControlUnreachable
// as long as the coordination server was never reached, and net.ErrClosed once the node is closed.
func (n *Node) NotReady() error {
	s := n.Status()
	switch s.State {
	case StateRunning:
		return nil
	case StateStopped:
		return fmt.Errorf("the node has ended: %w", net.ErrClosed)
	}
	e := &notReadyError{reason: s.Reason}
	if n.member != nil {
		if state, _, err := n.member.state(); state == StateStarting && errors.Is(err, ErrControlUnreachable) {
			e.cause = err
		}
	}
	return e
}

// Awaited returns the targets of Config.WaitFor that have not answered yet.
func (n *Node) Awaited() []string { return n.awaits.targets() }
