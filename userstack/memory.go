package userstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// firstShare is what a connection may buffer in each direction at first, if memory is
	// plentiful. It suffices within a local network.
	firstShare = 512 << 10

	// minShare is the smallest share: a few segments, enough for a connection to work.
	minShare = 8 << 10

	// minBuffers is the smallest Config.Buffers: enough for a few connections.
	minBuffers = 1 << 20
)

// ErrFull is the error of a dial that got no memory for its connection.
var ErrFull = errors.New("the memory given to connections is used up")

// noMemoryError is the error of a dial that got no memory in time. cause is that of its context.
type noMemoryError struct{ cause error }

func (e *noMemoryError) Error() string   { return ErrFull.Error() + ": " + e.cause.Error() }
func (e *noMemoryError) Unwrap() []error { return []error{ErrFull, e.cause} }

// Timeout makes net.OpError.Timeout work.
func (e *noMemoryError) Timeout() bool { return errors.Is(e.cause, syscall.ETIMEDOUT) }

// memory divides a budget among the buffers of TCP connections, separately for each direction.
//
// A connection begins with a share, which is smaller the more connections there are. Half of the
// budget is reserved for first shares. The other half is for connections whose path needs more:
// their shares grow with the bandwidth-delay product and shrink again when they are idle. When not
// even minShare is left, new connections wait until others end. The zero value has no limit.
//
// A receive window that was offered cannot be withdrawn: the peer may already have sent what it
// allows. So when the share of an idle connection is given to another one, the peer may still fill
// the old window. Its data are accepted as long as there is room. Otherwise they are dropped, and
// the peer retransmits them.
type memory struct {
	gv     *stack.Stack
	budget int // bytes in each direction; 0 means no limit

	mu      sync.Mutex
	granted [directions]int // bytes
	shares  int             // connections
	freec   chan struct{}   // closed and replaced when memory becomes free
}

// direction is a direction of a connection.
type direction int

const (
	receiving direction = iota
	sending
	directions
)

// share is what a connection may buffer in each direction, in bytes.
type share struct {
	first int // size at first, which shrink returns to

	mu   sync.Mutex // held from a change of size until gVisor is told
	size [directions]int
}

func (m *memory) init(gv *stack.Stack, buffers int) {
	m.gv, m.budget, m.freec = gv, buffers/2, make(chan struct{})
	// gVisor derives the window scale from the largest buffer.
	largest := 2 * m.largest()
	o := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: min(tcpBufferDefault, largest), Max: largest}
	if err := m.gv.SetTransportProtocolOption(tcp.ProtocolNumber, &o); err != nil {
		panic(fmt.Sprintf("userstack: internal error: setting TCP option %T: %s", o, err))
	}
}

// largest is the most that a connection may buffer in one direction, in bytes.
func (m *memory) largest() int {
	if m.budget == 0 {
		return tcpBufferMax
	}
	return min(max(m.budget/4, minShare), tcpBufferMax)
}

// acquire waits for a share. The caller must release it.
func (m *memory) acquire(ctx context.Context, closec <-chan struct{}) (*share, error) {
	for {
		s, freec := m.tryAcquire()
		if s != nil {
			return s, nil
		}
		select {
		case <-freec:
		case <-ctx.Done():
			return nil, &noMemoryError{dialError(context.Cause(ctx))}
		case <-closec:
			return nil, net.ErrClosed
		}
	}
}

// tryAcquire returns a share, or nil and a channel that is closed when memory becomes free.
func (m *memory) tryAcquire() (*share, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.firstSizeLocked()
	for d := range m.granted {
		if m.budget > 0 && m.granted[d]+n > m.budget {
			return nil, m.freec
		}
	}
	s := &share{first: n}
	for d := range m.granted {
		m.granted[d] += n
		s.size[d] = n
	}
	m.shares++
	return s, nil
}

// firstSizeLocked is the first size of the next share. The more shares there are, the smaller it
// is.
func (m *memory) firstSizeLocked() int {
	if m.budget == 0 {
		return firstShare
	}
	free := m.budget/2 - max(m.granted[receiving], m.granted[sending])
	return max(minShare, min(free/(2*(m.shares+1)), firstShare))
}

// grow adds up to n bytes to a direction of a share and returns how many. The caller holds s.mu.
func (m *memory) grow(s *share, d direction, n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.budget > 0 {
		n = min(n, max(m.budget/2-m.granted[d], 0)/2)
	}
	if n = min(n, m.largest()-s.size[d]); n <= 0 || s.size[d] == 0 { // size 0: the share is released
		return 0
	}
	m.granted[d] += n
	s.size[d] += n
	return n
}

// shrink takes back what grow has added, and reports whether there was anything. The caller holds
// s.mu.
func (m *memory) shrink(s *share, d direction) bool {
	n := s.size[d] - s.first
	if n <= 0 {
		return false
	}
	s.size[d] = s.first
	m.mu.Lock()
	defer m.mu.Unlock()
	m.granted[d] -= n
	m.wakeWaitersLocked()
	return true
}

// wakeWaitersLocked wakes all that wait for a share.
func (m *memory) wakeWaitersLocked() {
	close(m.freec)
	m.freec = make(chan struct{})
}

// release takes a share back.
func (m *memory) release(s *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := range m.granted {
		m.granted[d] -= s.size[d]
		s.size[d] = 0
	}
	m.shares--
	m.wakeWaitersLocked()
}

const (
	// An orphan is polled at intervals that double from orphanFirstPoll to orphanMaxPoll. gVisor does
	// not notify of the states in which nothing is left to send.
	orphanFirstPoll = 10 * time.Millisecond
	orphanMaxPoll   = time.Second

	// orphanLife is when an orphan is reset.
	orphanLife = 2 * time.Minute
)

// orphan is a closed connection that still has data to send.
type orphan struct {
	c     *Conn
	since time.Time
	pause time.Duration
}

// releaseWhenSent releases the share of a closed connection when nothing is left to send. After
// orphanLife it resets the connection, because a peer could keep its window at zero for ever.
func (m *memory) releaseWhenSent(c *Conn) {
	o := &orphan{c: c, since: time.Now(), pause: orphanFirstPoll}
	if o.isDone() {
		m.release(c.share)
		return
	}
	time.AfterFunc(o.pause, o.poll)
}

// isDone reports whether everything including the FIN is acknowledged, or the connection is dead.
func (o *orphan) isDone() bool {
	switch tcp.EndpointState(o.c.ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return o.c.stackClosed.Load()
	}
	return true
}

func (o *orphan) poll() {
	late := time.Since(o.since) > orphanLife
	if late {
		o.c.ep.Abort()
	}
	if late || o.isDone() {
		o.c.memory.release(o.c.share)
		return
	}
	o.pause = min(2*o.pause, orphanMaxPoll)
	time.AfterFunc(o.pause, o.poll)
}

// apply sets the buffer sizes of ep, which must not have offered a larger window yet.
func (s *share) apply(ep tcpip.Endpoint) {
	setReceiveBuffer(ep, s.size[receiving])
	setSendBuffer(ep, s.size[sending])
}

// setReceiveBuffer makes ep offer up to n bytes to its peer, from the next acknowledgement on.
// gVisor offers half of the buffer, and reserves the rest for the overhead of packets.
func setReceiveBuffer(ep tcpip.Endpoint, n int) {
	const notify = true
	ep.SocketOptions().SetReceiveBufferSize(int64(2*n), !notify)
}

// setSendBuffer makes ep keep up to n bytes until they are acknowledged. It also ends gVisor's own
// tuning of the size, which follows the congestion window.
func setSendBuffer(ep tcpip.Endpoint, n int) {
	const notify = true
	ep.SocketOptions().SetSendBufferSize(int64(n), notify)
}

// listenSize is the receive buffer of a listener in bytes, which its connections inherit until they
// have a share; 0 means gVisor's default.
func (m *memory) listenSize() int {
	if m.budget == 0 {
		return 0
	}
	return 2 * minShare // the size for the smallest share, because a window must not shrink
}
