//go:build unix

package store

import (
	"os/signal"
	"syscall"
)

// limitFileSize makes every file of this process end there, as if the disk were full.
func limitFileSize(n uint64) error {
	signal.Ignore(syscall.SIGXFSZ)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: n})
}
