package server

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"ginnel/control/store"
)

// slowStore delays a write until wait is closed, if that is set.
type slowStore struct {
	*store.Memory
	wait atomic.Pointer[chan struct{}]
}

func (s *slowStore) Transact(ctx context.Context, t store.Txn) (uint64, error) {
	if c := s.wait.Load(); c != nil {
		<-*c
	}
	return s.Memory.Transact(ctx, t)
}

// A machine may disconnect while its registration is being stored.
func TestDisconnectWhileRegistering(t *testing.T) {
	st := &slowStore{Memory: store.NewMemory()}
	var logged logBuffer
	adjust := func(c *Config) {
		c.Store, c.Log = st, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	onNet(t, adjust, func(t *testing.T, n *testNet) {
		p := n.newPeer("a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		goc := make(chan struct{})
		st.wait.Store(&goc)
		p.wg.Go(func() { p.Register(ctx, p.request()) })
		settle()
		cancel()
		settle()
		close(goc)
		synctest.Wait()
		if strings.Contains(logged.String(), "panic") {
			t.Error(logged.String())
		}
	})
}
