package control

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"ginnel/internal/key"
)

// What a Client returns, tested with errors.Is. A call that its context ended returns the cause of
// that instead.
var (
	// ErrUnreachable: no conversation with the server came about, or it broke off. Trying again may
	// help.
	ErrUnreachable = errors.New("control: server cannot be reached")
	// ErrUnauthorized: the server does not serve this machine, whatever is asked.
	ErrUnauthorized = errors.New("control: server does not serve this machine")
	// ErrUnknownNode: the server has no such node, or it belongs to another machine. Registering again
	// may help.
	ErrUnknownNode = errors.New("control: server does not know this node")
	// ErrVersionRefused: the server does not speak our version of the protocol.
	ErrVersionRefused = errors.New("control: server refuses this version of the protocol")

	// ErrStreamEnded: the server has ended a map stream in an orderly way, on a channel that goes on.
	// It does so when another process has begun one for the same node. It is an ErrUnreachable too.
	ErrStreamEnded = errors.New("server ended the stream, and goes on otherwise")

	errClosed = fmt.Errorf("control: client closed: %w", net.ErrClosed)

	// ErrPlainPort: the URL begins with https://, and the port speaks plain HTTP. It is an
	// ErrUnreachable too.
	ErrPlainPort = errors.New("the server speaks plain HTTP on this port")
)

// RefusedError is a server's refusal to register, in its own words.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "control: server refuses to register: " + e.Reason }

// KeyChangedError says that the server at the URL has another key than the one that was pinned or
// seen first. Nothing was said to it.
type KeyChangedError struct{ Known, Now key.MachinePublic }

func (e *KeyChangedError) Error() string {
	return fmt.Sprintf("control: server's key is %v, where %v is known", e.Now, e.Known)
}

// RateLimitError says that the server wants to be asked later.
type RateLimitError struct{ RetryAfter time.Duration }

func (e *RateLimitError) Error() string {
	return fmt.Sprintf("control: server wants to be asked again in %v", e.RetryAfter.Round(time.Second))
}

// StatusError is an answer of the server other than 200. What it wraps says what the status means
// there, if anything.
type StatusError struct {
	Path string
	Code int
	Text string // the beginning of what the server said
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

// unreachable makes err an ErrUnreachable, unless it is one already or only the client was closed.
func unreachable(err error) error {
	if errors.Is(err, ErrUnreachable) || errors.Is(err, errClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
