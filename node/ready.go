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

// When a node is ready: its mesh is usable, and everything that it was told to wait for has
// answered.

const (
	awaitFirstPause = 50 * time.Millisecond // after a target has not answered; it grows by half
	awaitMaxPause   = time.Second
	awaitFirst      = time.Second     // for the first attempt, so that something can be said soon; doubled for each further one
	awaitMost       = 5 * time.Second // for one attempt
)

// awaits are the targets that have not answered yet.
type awaits struct {
	mu   sync.Mutex
	open map[string]error // why not
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

// targets are those that have not answered, in order.
func (a *awaits) targets() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.open))
}

// reason says what is missing; empty if nothing is.
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

// awaitTarget asks for an answer until there is one.
func (n *Node) awaitTarget(ctx context.Context, target string) {
	pause := awaitFirstPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for patience := awaitFirst; ; patience = min(2*patience, awaitMost) {
		err := n.tryTarget(ctx, target, patience)
		if err == nil {
			n.awaits.answered(target)
			return
		}
		if ctx.Err() != nil {
			return
		}
		n.awaits.set(target, err)
		timer.Reset(pause)
		pause = min(pause*3/2, awaitMaxPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// tryTarget connects to a target that has a port, and pings one that has none.
func (n *Node) tryTarget(ctx context.Context, target string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, _, err := net.SplitHostPort(target); err != nil {
		_, err := n.Ping(ctx, target)
		return err
	}
	c, err := n.dial(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return c.Close()
}

// notReadyError says in Status's words why a node is not ready. What it wraps says whose fault that
// is, if it is known.
type notReadyError struct {
	reason string
	cause  error
}

func (e *notReadyError) Error() string { return e.reason }
func (e *notReadyError) Unwrap() error { return e.cause }

// NotReady says why the mesh cannot be used yet; nil: it can. The error is an ErrControlUnreachable
// while there has been no conversation with the coordination server, and net.ErrClosed after the
// node's end.
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
