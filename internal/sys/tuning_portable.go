//go:build !linux || ginnel_stdnet

package sys

import (
	"errors"
	"os"
	"time"
)

func processorTime() (time.Duration, error) { return 0, errors.ErrUnsupported }

func yieldProcessor() {}

func discardPages(_, _ uintptr) error { return errors.ErrUnsupported }

// There is no such signal.
var workSignal os.Signal

func startWorkTimer(time.Duration) error { return errors.ErrUnsupported }

func newEventFD() (*os.File, error) { return nil, errors.ErrUnsupported }

func signalEventFD(uintptr) {}
