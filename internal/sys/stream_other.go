//go:build !unix

package sys

import "syscall"

// No call on a socket returns without waiting here, so Stream and Nonblocking report false and the
// rest is never reached.

const (
	rawStreams     = false
	hasNonblocking = false

	pollIn, pollOut, pollErr, pollHup, pollRdHup = 1, 4, 8, 16, 0
)

func isTCP(any) bool { return false }

func read(uintptr, []byte) (int, error)  { return 0, syscall.EINVAL }
func write(uintptr, []byte) (int, error) { return 0, syscall.EINVAL }
func waiting(uintptr) (int, error)       { return 0, syscall.EINVAL }
func poll(uintptr, int16) int16          { return 0 }
