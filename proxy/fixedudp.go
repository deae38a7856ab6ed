package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxReadErrors in a row, and a socket is taken for broken. Single ones are what an earlier datagram provoked, such as a
// port that nobody listens on.
const maxReadErrors = 100

// forwardQueue datagrams of one sender wait while its destination is dialled or slow; further ones are dropped.
const forwardQueue = 64

// ForwardPackets carries datagrams that arrive on pc to one destination, and its answers back. Each sender has a conn of
// its own there, which dial opens and which ends when nothing has passed for IdleTimeout. There are at most
// MaxAssociations senders; datagrams of further ones are dropped. Otherwise it is like Forward.
func (s *Server) ForwardPackets(pc net.PacketConn, name string, dial DialFunc) error {
	defer pc.Close()
	f := &packetForward{srv: s, pc: pc, name: name, dial: dial, senders: make(map[string]*sender)}
	return s.whileLive(pc, f.serve)
}

// packetForward is one call of ForwardPackets.
type packetForward struct {
	srv  *Server
	pc   net.PacketConn
	name string
	dial DialFunc

	mu      sync.Mutex
	senders map[string]*sender // by address
}

// sender is a client of a packetForward. One goroutine dials and sends, one receives; both end when it is closed.
type sender struct {
	f      *packetForward
	addr   net.Addr
	key    string
	queue  chan []byte
	moved  atomic.Bool // a datagram has passed since the idle timer last looked
	closec chan struct{}
	once   sync.Once
	entry  entry

	sent, received meter
	failure        firstError
}

func (f *packetForward) serve() error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for failed := 0; ; {
		n, addr, err := f.pc.ReadFrom(buf[:])
		if f.srv.live.ended() {
			return errServerClosed
		}
		if err != nil {
			if failed++; failed < maxReadErrors && !errors.Is(err, net.ErrClosed) {
				continue
			}
			return fmt.Errorf("receiving on %v: %w", f.pc.LocalAddr(), err)
		}
		failed = 0
		s := f.sender(addr)
		if s == nil || !s.enqueue(buf[:n]) {
			f.srv.counters.datagramsDropped.Add(1)
		}
	}
}

// sender returns the sender with that address, new if need be; nil if there are too many.
func (f *packetForward) sender(addr net.Addr) *sender {
	key := addr.String()
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.senders[key]; s != nil {
		return s
	}
	if int64(len(f.senders)) >= int64(f.srv.maxAssociations()) {
		return nil
	}
	s := &sender{f: f, addr: addr, key: key, queue: make(chan []byte, forwardQueue), closec: make(chan struct{}),
		entry: entry{protocol: protoForward, destination: f.name, started: time.Now()}}
	s.sent.total, s.received.total = &f.srv.counters.sent, &f.srv.counters.received
	if !f.srv.live.add(s) {
		return nil
	}
	f.senders[key] = s
	f.srv.counters.forwarded.Add(1)
	f.srv.counters.openAssociations.Add(1)
	f.srv.live.wg.Go(s.run)
	return s
}

// enqueue reports whether there was room.
func (s *sender) enqueue(b []byte) bool {
	d := append([]byte(nil), b...)
	select {
	case s.queue <- d:
		return true
	default:
		return false
	}
}

// Close ends the sender; its goroutines follow.
func (s *sender) Close() error {
	s.once.Do(s.leave)
	return nil
}

func (s *sender) leave() {
	s.f.mu.Lock()
	delete(s.f.senders, s.key)
	s.f.mu.Unlock()
	s.f.srv.live.remove(s)
	s.f.srv.counters.openAssociations.Add(-1)
	close(s.closec)
}

// run dials the destination and sends what is queued.
func (s *sender) run() {
	defer s.log()
	defer s.Close()
	upstream, err := s.connect()
	if err != nil {
		s.failure.set(s.f.srv.dialFailed(s.f.name, err))
		return
	}
	defer upstream.Close()
	s.f.srv.live.wg.Go(func() { s.receive(upstream) })
	idle := time.NewTicker(s.f.srv.idleTimeout())
	defer idle.Stop()
	for {
		select {
		case b := <-s.queue:
			s.send(upstream, b)
		case <-idle.C:
			if !s.moved.Swap(false) {
				return
			}
		case <-s.closec:
			return
		}
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
		s.f.srv.counters.datagramsDropped.Add(1)
		return
	}
	s.moved.Store(true)
	s.sent.add(int64(len(b)))
	s.f.srv.counters.datagramsSent.Add(1)
}

// receive carries the destination's datagrams back until upstream is closed.
func (s *sender) receive(upstream net.Conn) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for failed := 0; ; {
		n, err := upstream.Read(buf[:])
		if err != nil {
			if failed++; failed < maxReadErrors && !errors.Is(err, net.ErrClosed) {
				continue
			}
			s.failure.set(err)
			s.Close()
			return
		}
		failed = 0
		if _, err := s.f.pc.WriteTo(buf[:n], s.addr); err != nil {
			s.f.srv.counters.datagramsDropped.Add(1)
			continue
		}
		s.moved.Store(true)
		s.received.add(int64(n))
		s.f.srv.counters.datagramsReceived.Add(1)
	}
}

func (s *sender) log() {
	e := s.entry
	e.sent, e.received = s.sent.n.Load(), s.received.n.Load()
	s.f.srv.logEntry(s.addr, e, s.failure.get())
}
