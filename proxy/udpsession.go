package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"ginnel/internal/sys"
)

// udpSession carries the datagrams of one client of a udpForward. One goroutine dials the
// destination and waits for idleness, another one receives. Both end when the session is closed.
type udpSession struct {
	f      *udpForward
	client netip.AddrPort
	source netip.Prefix    // of client
	ctx    context.Context // ends with the session and with the Server
	cancel context.CancelFunc
	once   sync.Once // of Close
	entry  entry
	usage

	sent, received meter
	failure        firstError

	mu       sync.Mutex
	upstream *udpUpstream // nil until the queue has been sent
	queue    [][]byte     // datagrams that wait for upstream, in order
	failed   bool         // the dial has failed: nothing is queued any more
}

// udpUpstream is a conn to the destination.
type udpUpstream struct {
	net.Conn
	source packetSource
	cork   corker // nil if Conn is none
}

// send sends datagrams, and returns how many it has sent.
func (u *udpUpstream) send(datagrams [][]byte) (sent sys.Sent) {
	if host, ok := u.source.(*hostSource); ok {
		sent, _ = host.sock.Send(datagrams, netip.AddrPort{})
		return sent
	}
	corked(u.cork, func() {
		for _, b := range datagrams {
			if _, err := u.Write(b); err == nil {
				sent.Datagrams++
				sent.Bytes += len(b)
			}
		}
	})
	return sent
}

// forward sends datagrams to the destination, or queues copies of them while it is dialled.
func (s *udpSession) forward(datagrams [][]byte) {
	for i, b := range datagrams {
		upstream, queued := s.enqueue(b)
		if upstream != nil {
			s.send(upstream, datagrams[i:])
			return
		}
		if !queued {
			s.f.drop(1)
		}
	}
}

// enqueue returns the upstream to send b to. If there is none yet, it reports whether it has queued
// a copy of b.
func (s *udpSession) enqueue(b []byte) (up *udpUpstream, queued bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream != nil {
		return s.upstream, false
	}
	if s.failed || len(s.queue) >= maxQueued {
		return nil, false
	}
	if !s.f.queued.Take(s.source, len(b)) {
		return nil, false
	}
	s.queue = append(s.queue, append([]byte(nil), b...))
	return nil, true
}

// connected sends the queue to up. Later datagrams bypass the queue, but only once it is empty, so
// that the order is kept.
func (s *udpSession) connected(up *udpUpstream) {
	for {
		queue := s.takeQueue(up)
		if len(queue) == 0 {
			return
		}
		s.send(up, queue)
	}
}

// takeQueue takes the queue. If it is empty, datagrams are sent to up directly from now on.
func (s *udpSession) takeQueue(up *udpUpstream) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.takeQueueLocked()
	if len(taken) == 0 {
		s.upstream = up
	}
	return taken
}

func (s *udpSession) takeQueueLocked() [][]byte {
	taken := s.queue
	s.queue = nil
	for _, b := range taken {
		s.f.queued.Give(s.source, len(b))
	}
	return taken
}

// dropQueue drops the queue, and lets nothing be queued any more.
func (s *udpSession) dropQueue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
	s.f.drop(len(s.takeQueueLocked()))
}

// Close ends the session. It does not wait for the goroutines.
func (s *udpSession) Close() error {
	s.once.Do(s.end)
	return nil
}

func (s *udpSession) end() {
	s.f.mu.Lock()
	delete(s.f.sessions, s.client)
	s.f.bySource.Remove(s)
	s.f.mu.Unlock()
	s.f.srv.counters.openAssociations.Add(-1)
	s.cancel()
	s.dropQueue()
}

// run dials the destination and keeps the conn open until it has been idle for IdleTimeout.
func (s *udpSession) run() {
	defer s.Close()
	up, err := s.dial()
	if err != nil {
		s.failure.set(s.f.srv.dialFailed(s.f.name, err))
		s.log()
		s.dropQueue()
		sleep(s.ctx, failedSessionTime)
		return
	}
	defer s.log()
	defer up.Close()
	s.f.srv.live.wg.Go(func() { s.receive(up.source) })
	s.connected(up)
	for sleep(s.ctx, s.f.srv.idleTimeout()) && s.active.Swap(false) {
	}
}

// dial connects to the destination, within DialTimeout.
func (s *udpSession) dial() (*udpUpstream, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.f.srv.dialTimeout())
	defer cancel()
	c, err := s.f.dial(ctx)
	if err != nil {
		return nil, err
	}
	source, err := s.f.srv.newConnSource(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	cork, _ := c.(corker)
	return &udpUpstream{c, source, cork}, nil
}

func (s *udpSession) send(up *udpUpstream, datagrams [][]byte) {
	sent := up.send(datagrams)
	s.f.drop(len(datagrams) - sent.Datagrams)
	if sent.Datagrams == 0 {
		return
	}
	s.touch()
	s.sent.add(int64(sent.Bytes))
	s.f.srv.counters.datagramsSent.Add(uint64(sent.Datagrams))
}

// receive sends the destination's datagrams to the client until source is closed.
func (s *udpSession) receive(source packetSource) {
	for failed := 0; ; {
		err := s.receiveBatch(source)
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

// receiveBatch waits for datagrams of the destination and sends them to the client.
func (s *udpSession) receiveBatch(source packetSource) error {
	if err := source.wait(); err != nil {
		return err
	}
	batch := s.f.srv.udp.batches.get(source)
	defer batch.free()
	if err := source.receive(batch); err != nil {
		return err
	}
	corked(s.f.cork, func() {
		for _, b := range batch.data {
			s.sendBack(b)
		}
		s.touch()
	})
	return nil
}

func (s *udpSession) sendBack(b []byte) {
	if _, err := s.f.pc.WriteToUDPAddrPort(b, s.client); err != nil {
		s.f.drop(1)
		return
	}
	s.received.add(int64(len(b)))
	s.f.srv.counters.datagramsReceived.Add(1)
}

func (s *udpSession) log() {
	e := s.entry
	e.sent, e.received = s.sent.n.Load(), s.received.n.Load()
	s.f.srv.logEntry(net.UDPAddrFromAddrPort(s.client), e, s.failure.get())
}
