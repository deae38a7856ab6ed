package cli

import (
	"errors"
	"fmt"
)

// Exit statuses that scripts rely on.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2 // usage or configuration; nothing was started
	ExitTimeout = 3 // not ready in time
	ExitRefused = 4 // authentication refused
	ExitControl = 5 // coordination server not reachable
)

// statusError is an error with an exit status of its own.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }

func (e *statusError) Unwrap() error { return e.err }

// WithStatus gives an error its own exit status.
func WithStatus(status int, err error) error { return &statusError{status, err} }

// ExitStatus returns the exit status for an error that has been shown or needs no words of its own.
func ExitStatus(err error) int {
	if IsUsage(err) {
		return ExitUsage
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return ExitFailure
}

// usageError is a mistake of the user's, in the command line, the environment or a file.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage marks an error as a mistake of the user's. The program then ends with ExitUsage.
func Usage(err error) error { return usageError{err} }

// IsUsage reports whether an error is a mistake of the user's.
func IsUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// Usagef formats an error that is a mistake of the user's.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// ChildStatus is the exit status of a command that has said by itself what there was to say.
type ChildStatus int

func (s ChildStatus) Error() string {
	return fmt.Sprintf("the command has ended with status %d", int(s))
}
