package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/sys"
)

// sender is a client of a packetForward. One goroutine dials and waits for idleness, one receives;
// both end when it is closed.
type sender struct {
	f      *packetForward
	addr   netip.AddrPort
	source netip.Prefix // of addr
	closec chan struct{}
	once   sync.Once
	entry  entry
	usage

	sent, received meter
	failure        firstError

	mu       sync.Mutex
	upstream *upstream // nil until datagrams may go there directly
	waiting  [][]byte  // until then, in order
	refuses  bool      // nothing may wait any more
}

// upstream is a conn to the destination.
type upstream struct {
	net.Conn
	in inlet
}

// send sends what it can.
func (u *upstream) send(datagrams [][]byte) (sent sys.Sent) {
	if host, ok := u.in.(*hostInlet); ok {
		sent, _ = host.sock.Send(datagrams, netip.AddrPort{})
		return sent
	}
	together(u.Conn, func() {
		for _, b := range datagrams {
			if _, err := u.Write(b); err == nil {
				sent.Datagrams++
				sent.Bytes += len(b)
			}
		}
	})
	return sent
}

// pass sends datagrams, or keeps copies of them for as long as the destination is dialled.
func (s *sender) pass(datagrams [][]byte) {
	for i, b := range datagrams {
		upstream, kept := s.keep(b)
		if upstream != nil {
			s.send(upstream, datagrams[i:])
			return
		}
		if !kept {
			s.f.drop(1)
		}
	}
}

// keep returns where b goes now, or else whether a copy of it waits.
func (s *sender) keep(b []byte) (up *upstream, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream != nil {
		return s.upstream, false
	}
	if s.refuses || len(s.waiting) >= forwardQueue {
		return nil, false
	}
	if !s.f.waiting.Take(s.source, len(b)) {
		return nil, false
	}
	s.waiting = append(s.waiting, append([]byte(nil), b...))
	return nil, true
}

// connected sends what waits. Later datagrams go to upstream directly, but not before those are on
// their way.
func (s *sender) connected(up *upstream) {
	for {
		waiting := s.takeWaiting(up)
		if len(waiting) == 0 {
			return
		}
		s.send(up, waiting)
	}
}

// takeWaiting takes what waits for upstream, and opens the direct way there if that is nothing.
func (s *sender) takeWaiting(up *upstream) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.takeWaitingLocked()
	if len(taken) == 0 {
		s.upstream = up
	}
	return taken
}

func (s *sender) takeWaitingLocked() [][]byte {
	taken := s.waiting
	s.waiting = nil
	for _, b := range taken {
		s.f.waiting.Give(s.source, len(b))
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
	s.f.held.Remove(s)
	s.f.mu.Unlock()
	s.f.srv.live.remove(s)
	s.f.srv.counters.openAssociations.Add(-1)
	close(s.closec)
	s.refuse()
}

// run dials the destination and keeps the conn while it is in use.
func (s *sender) run() {
	defer s.Close()
	up, err := s.open()
	if err != nil {
		s.failure.set(s.f.srv.dialFailed(s.f.name, err))
		s.log()
		s.refuse()
		s.pause(failedSenderTime)
		return
	}
	defer s.log()
	defer up.Close()
	s.f.srv.live.wg.Go(func() { s.receive(up.in) })
	s.connected(up)
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

// open connects to the destination.
func (s *sender) open() (*upstream, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	in, err := s.f.srv.inletOf(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &upstream{c, in}, nil
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

func (s *sender) send(up *upstream, datagrams [][]byte) {
	sent := up.send(datagrams)
	s.f.drop(len(datagrams) - sent.Datagrams)
	if sent.Datagrams == 0 {
		return
	}
	s.touch()
	s.sent.add(int64(sent.Bytes))
	s.f.srv.counters.datagramsSent.Add(uint64(sent.Datagrams))
}

// receive carries the destination's datagrams back until the conn there is closed.
func (s *sender) receive(in inlet) {
	for failed := 0; ; {
		err := s.receiveSome(in)
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

// receiveSome waits for datagrams and passes them back.
func (s *sender) receiveSome(in inlet) error {
	if err := in.await(); err != nil {
		return err
	}
	slab := s.f.srv.udp.slabs.take(in)
	defer slab.free()
	if err := in.receive(slab); err != nil {
		return err
	}
	together(s.f.pc, func() {
		for _, b := range slab.data {
			s.receiveOne(b)
		}
		s.touch()
	})
	return nil
}

func (s *sender) receiveOne(b []byte) {
	if _, err := s.f.pc.WriteToUDPAddrPort(b, s.addr); err != nil {
		s.f.drop(1)
		return
	}
	s.received.add(int64(len(b)))
	s.f.srv.counters.datagramsReceived.Add(1)
}

func (s *sender) log() {
	e := s.entry
	e.sent, e.received = s.sent.n.Load(), s.received.n.Load()
	s.f.srv.logEntry(net.UDPAddrFromAddrPort(s.addr), e, s.failure.get())
}
