package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// sender is a client of a packetForward. One goroutine dials and waits for idleness, one receives; both end when it is
// closed.
type sender struct {
	f      *packetForward
	addr   netip.AddrPort
	moved  atomic.Bool // a datagram has passed since the idle timer last looked
	closec chan struct{}
	once   sync.Once
	entry  entry

	sent, received meter
	failure        firstError

	mu       sync.Mutex
	upstream net.Conn // nil until datagrams may go there directly
	waiting  [][]byte // until then, in order
	refuses  bool     // nothing may wait any more
}

// pass sends b, or keeps a copy of it for as long as the destination is dialled.
func (s *sender) pass(b []byte) {
	if upstream, kept := s.keep(b); upstream != nil {
		s.send(upstream, b)
	} else if !kept {
		s.f.drop(1)
	}
}

// keep returns where b goes now, or else whether a copy of it waits.
func (s *sender) keep(b []byte) (upstream net.Conn, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream != nil {
		return s.upstream, false
	}
	if s.refuses || len(s.waiting) >= forwardQueue {
		return nil, false
	}
	if s.f.waiting.Add(int64(len(b))) > forwardBudget {
		s.f.waiting.Add(-int64(len(b)))
		return nil, false
	}
	s.waiting = append(s.waiting, append([]byte(nil), b...))
	return nil, true
}

// connected sends what waits. Later datagrams go to upstream directly, but not before those are on their way.
func (s *sender) connected(upstream net.Conn) {
	for {
		waiting := s.takeWaiting(upstream)
		if len(waiting) == 0 {
			return
		}
		for _, b := range waiting {
			s.send(upstream, b)
		}
	}
}

// takeWaiting takes what waits for upstream, and opens the direct way there if that is nothing.
func (s *sender) takeWaiting(upstream net.Conn) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.takeWaitingLocked()
	if len(taken) == 0 {
		s.upstream = upstream
	}
	return taken
}

func (s *sender) takeWaitingLocked() [][]byte {
	taken := s.waiting
	s.waiting = nil
	for _, b := range taken {
		s.f.waiting.Add(-int64(len(b)))
	}
	return taken
}

// refuse drops what waits, and lets nothing wait any more.
func (s *sender) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = true
	s.f.drop(len(s.takeWaitingLocked()))
}

// Close ends the sender; its goroutines follow.
func (s *sender) Close() error {
	s.once.Do(s.leave)
	return nil
}

func (s *sender) leave() {
	s.f.mu.Lock()
	delete(s.f.senders, s.addr)
	s.f.mu.Unlock()
	s.f.srv.live.remove(s)
	s.f.srv.counters.openAssociations.Add(-1)
	close(s.closec)
	s.refuse()
}

// run dials the destination and keeps the conn while it is in use.
func (s *sender) run() {
	defer s.Close()
	upstream, err := s.connect()
	if err != nil {
		s.failure.set(s.f.srv.dialFailed(s.f.name, err))
		s.log()
		s.refuse()
		s.pause(failedSenderTime)
		return
	}
	defer s.log()
	defer upstream.Close()
	s.f.srv.live.wg.Go(func() { s.receive(upstream) })
	s.connected(upstream)
	for s.pause(s.f.srv.idleTimeout()) && s.moved.Swap(false) {
	}
}

// pause reports whether d passed without the sender having been closed.
func (s *sender) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closec:
		return false
	}
}

// connect dials for as long as DialTimeout and the sender last.
func (s *sender) connect() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.f.srv.dialTimeout())
	defer cancel()
	s.f.srv.live.wg.Go(func() { s.cancelOnClose(ctx, cancel) })
	return s.f.dial(ctx)
}

func (s *sender) cancelOnClose(ctx context.Context, cancel context.CancelFunc) {
	select {
	case <-s.closec:
		cancel()
	case <-ctx.Done():
	}
}

func (s *sender) send(upstream net.Conn, b []byte) {
	if _, err := upstream.Write(b); err != nil {
		s.f.drop(1)
		return
	}
	s.moved.Store(true)
	s.sent.add(int64(len(b)))
	s.f.srv.counters.datagramsSent.Add(1)
}

// receive carries the destination's datagrams back until upstream is closed.
func (s *sender) receive(upstream net.Conn) {
	ready := readinessOf(upstream)
	for failed := 0; ; {
		err := s.receiveOne(ready, upstream)
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed == maxReadErrors || errors.Is(err, net.ErrClosed) {
			s.failure.set(err)
			s.Close()
			return
		}
	}
}

// receiveOne waits for one datagram and passes it back.
func (s *sender) receiveOne(ready readiness, upstream net.Conn) error {
	if err := ready.wait(); err != nil {
		return err
	}
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	n, err := upstream.Read(buf[:])
	if err != nil {
		return err
	}
	if _, err := s.f.pc.WriteToUDPAddrPort(buf[:n], s.addr); err != nil {
		s.f.drop(1)
		return nil
	}
	s.moved.Store(true)
	s.received.add(int64(n))
	s.f.srv.counters.datagramsReceived.Add(1)
	return nil
}

func (s *sender) log() {
	e := s.entry
	e.sent, e.received = s.sent.n.Load(), s.received.n.Load()
	s.f.srv.logEntry(net.UDPAddrFromAddrPort(s.addr), e, s.failure.get())
}
