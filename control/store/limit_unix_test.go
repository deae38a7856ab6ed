//go:build unix

package store

import (
	"os/signal"
	"syscall"
)

// limitFileSize limits the size of files that this process writes, to simulate a full disk.
func limitFileSize(n uint64) error {
	signal.Ignore(syscall.SIGXFSZ)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: n})
}
