package server

import (
	"context"
	"errors"
	"sync/atomic"

	"ginnel/control/store"
)

var errDiskFull = errors.New("no space left on device")

// failingStore fails to write while it has an error.
type failingStore struct {
	*store.Memory
	err atomic.Pointer[error]
}

func (s *failingStore) Transact(ctx context.Context, t store.Txn) (uint64, error) {
	if err := s.err.Load(); err != nil {
		return 0, *err
	}
	return s.Memory.Transact(ctx, t)
}
