package server

import (
	"context"
	"errors"
	"sync/atomic"

	"ginnel/control/store"
)

var errDiskFull = errors.New("no space left on device")

// failingStore returns its error from every write while it has one. If lie is set, the write
// takes effect nevertheless.
type failingStore struct {
	*store.Memory
	err atomic.Pointer[error]
	lie atomic.Bool

	loads atomic.Int32 // how often the whole state was read
}

func (s *failingStore) List(ctx context.Context, prefix string) ([]store.Entry, uint64, error) {
	if prefix == "" {
		s.loads.Add(1)
	}
	return s.Memory.List(ctx, prefix)
}

func (s *failingStore) Transact(ctx context.Context, t store.Txn) (uint64, error) {
	if err := s.err.Load(); err != nil {
		if s.lie.Load() {
			s.Memory.Transact(ctx, t)
		}
		return 0, *err
	}
	return s.Memory.Transact(ctx, t)
}
