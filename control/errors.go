package control

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"ginnel/key"
)

// Errors of a Client, to be tested with errors.Is. A call whose context ended returns the cause of
// the context instead.
var (
	// ErrUnreachable: the server could not be reached, or the connection broke. Trying again may help.
	ErrUnreachable = errors.New("control: server cannot be reached")
	// ErrUnauthorized: the server refuses every request of this machine.
	ErrUnauthorized = errors.New("control: server does not serve this machine")
	// ErrUnknownNode: the server has no node with this key, or it belongs to another machine.
	// Registering again may help.
	ErrUnknownNode = errors.New("control: server does not know this node")
	// ErrVersionRefused: the server does not speak our version of the protocol.
	ErrVersionRefused = errors.New("control: server refuses this version of the protocol")

	// ErrStreamEnded: the server ended a map stream in an orderly way, while the channel stays open.
	// It does so when another process opens a stream for the same node. It is an ErrUnreachable too.
	ErrStreamEnded = errors.New("map stream closed by server")

	errClosed = fmt.Errorf("control: client closed: %w", net.ErrClosed)

	// ErrPlainPort: the URL begins with https://, and the port speaks plain HTTP. It is an
	// ErrUnreachable too.
	ErrPlainPort = errors.New("the server speaks plain HTTP on this port")
)

// RefusedError is a refusal to register, with the text that the server gave.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "control: server refuses to register: " + e.Reason }

// KeyChangedError: the server at the URL has another key than the one that was pinned or seen
// first. No request was sent to it.
type KeyChangedError struct{ Known, Now key.MachinePublic }

func (e *KeyChangedError) Error() string {
	return fmt.Sprintf("control: server's key is %v, want %v", e.Now, e.Known)
}

// RateLimitError: the server answered 429 and asks to wait.
type RateLimitError struct{ RetryAfter time.Duration }

func (e *RateLimitError) Error() string {
	return fmt.Sprintf("control: server limits requests: try again in %v", e.RetryAfter.Round(time.Second))
}

// StatusError is an HTTP status other than 200. It wraps the error that the status stands for at
// this path, if there is one.
type StatusError struct {
	Path string
	Code int
	Text string // the beginning of the body
	kind error
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("server answers %s with %d %s", e.Path, e.Code, http.StatusText(e.Code))
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.kind != nil {
		return e.kind.Error() + ": " + s
	}
	return "control: " + s
}

// Unwrap returns ErrUnauthorized, ErrUnknownNode, ErrVersionRefused or nil.
func (e *StatusError) Unwrap() error { return e.kind }

// unreachable wraps err in ErrUnreachable, unless it is one already or the client was closed.
func unreachable(err error) error {
	if errors.Is(err, ErrUnreachable) || errors.Is(err, errClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
