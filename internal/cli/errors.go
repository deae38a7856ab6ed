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

// ExitStatus returns the exit status of a command that failed with err.
func ExitStatus(err error) int {
	if IsUsage(err) {
		return ExitUsage
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return ExitFailure
}

// usageError is a mistake in the command line, the environment or a file.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage marks an error as a mistake in the command line, the environment or a file. The program
// then ends with ExitUsage.
func Usage(err error) error { return usageError{err} }

// IsUsage reports whether an error was made by Usage or Usagef.
func IsUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// Usagef formats an error as fmt.Errorf does and marks it as Usage does.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// ChildStatus is the exit status of a command that run ran. The program ends with it and prints
// nothing, because the command has reported its failure itself.
type ChildStatus int

func (s ChildStatus) Error() string {
	return fmt.Sprintf("the command has ended with status %d", int(s))
}
