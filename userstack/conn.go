package userstack

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is a gVisor endpoint with what is needed to wait for it. Two channels are signalled, with
// room for one signal each, when it may have become readable or writable.
type socket struct {
	ep         tcpip.Endpoint
	wq         *waiter.Queue
	readEntry  waiter.Entry
	writeEntry waiter.Entry

	readablec, writablec chan struct{}
	closec               chan struct{} // closed by release
	closed               atomic.Bool
	stackClosed          *atomic.Bool // the stack is closed
}

// attach registers for the events of an endpoint of stack. The socket owns ep from here on.
func (s *socket) attach(stack *Stack, ep tcpip.Endpoint, wq *waiter.Queue) {
	s.ep, s.wq, s.stackClosed = ep, wq, &stack.closed
	s.readablec, s.writablec = make(chan struct{}, 1), make(chan struct{}, 1)
	s.closec = make(chan struct{})
	const always = waiter.EventErr | waiter.EventHUp
	s.readEntry.Init(signal(s.readablec), waiter.ReadableEvents|always)
	s.writeEntry.Init(signal(s.writablec), waiter.WritableEvents|always)
	wq.EventRegister(&s.readEntry)
	wq.EventRegister(&s.writeEntry)
}

// signal is a channel as gVisor wants to hear of events. NotifyEvent never blocks.
type signal chan struct{}

func (c signal) NotifyEvent(waiter.EventMask) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// release ends waits; it reports false if that was done before. The endpoint is left to the caller.
func (s *socket) release() bool {
	if s.closed.Swap(true) {
		return false
	}
	s.wq.EventUnregister(&s.readEntry)
	s.wq.EventUnregister(&s.writeEntry)
	close(s.closec)
	return true
}

// wait blocks until c is signalled, the deadline passes or the socket is closed.
func (s *socket) wait(c <-chan struct{}, d *deadline) error {
	select {
	case <-c:
		return nil
	case <-d.wait():
		return os.ErrDeadlineExceeded
	case <-s.closec:
		return net.ErrClosed
	}
}

// isClosed reports whether the socket or the stack has been closed.
func (s *socket) isClosed() bool { return s.closed.Load() || s.stackClosed.Load() }

// errorOf translates what the endpoint said. Once the socket or the stack is closed, whatever it
// was is net.ErrClosed.
func (s *socket) errorOf(err tcpip.Error) error {
	if s.isClosed() {
		return net.ErrClosed
	}
	return errorOf(err)
}

// check returns the error of a call that begins now.
func (s *socket) check(d *deadline) error {
	if s.isClosed() {
		return net.ErrClosed
	}
	if d.hasExpired() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func wouldBlock(err tcpip.Error) bool {
	_, ok := err.(*tcpip.ErrWouldBlock)
	return ok
}

// Conn is a TCP connection through the stack. It is a net.Conn with CloseWrite, and moves bulk data
// from and to sockets of the operating system without buffers of its own: see ReadFrom and WriteTo.
type Conn struct {
	socket
	deadlines
	local, remote net.Addr
	linger        atomic.Bool // Close resets instead of closing

	rmu     sync.Mutex        // one reader at a time
	readBuf tcpip.SliceWriter // what read fills; here so that it costs no allocation

	wmu      sync.Mutex   // one writer at a time
	writeBuf bytes.Reader // what write takes from

	mss         int // payload of a full packet of gVisor's, in bytes
	segmentSize int // of the largest segment that is cut
	memory      *memory
	share       *share      // of memory
	growth      windowSizer // of the receive window; owned by the reader

	notSent          // what was written and not sent
	queue   *Queue   // by which its packets leave
	flow    *tcpFlow // nil: gVisor decides alone when something is sent
}

// newConn takes over a connected endpoint, and the memory that was granted for it.
func newConn(s *Stack, g *share, ep tcpip.Endpoint, wq *waiter.Queue, mss int) *Conn {
	c := &Conn{mss: mss, segmentSize: mss * s.dev.segment, memory: &s.memory, share: g}
	c.attach(s, ep, wq)
	if a, err := ep.GetLocalAddress(); err == nil {
		c.local = net.TCPAddrFromAddrPort(addrPortOf(a))
	}
	if a, err := ep.GetRemoteAddress(); err == nil {
		c.remote = net.TCPAddrFromAddrPort(addrPortOf(a))
	}
	c.manage(s)
	return c
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	n, err := c.read(b)
	return n, opError(opRead, "tcp", c.local, c.remote, err)
}

func (c *Conn) read(b []byte) (int, error) {
	for {
		if err := c.check(&c.readDeadline); err != nil {
			return 0, err
		}
		if len(b) == 0 {
			return 0, nil
		}
		c.readBuf = b
		res, err := c.ep.Read(&c.readBuf, tcpip.ReadOptions{})
		c.readBuf = nil
		switch {
		case res.Count > 0:
			c.consumed(res.Count)
			return res.Count, nil
		case !wouldBlock(err):
			return 0, c.errorOf(err)
		}
		if err := c.wait(c.readablec, &c.readDeadline); err != nil {
			return 0, err
		}
	}
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	n, err := c.write(b)
	return n, opError(opWrite, "tcp", c.local, c.remote, err)
}

func (c *Conn) write(b []byte) (done int, err error) {
	defer c.writeBuf.Reset(nil)
	for {
		if err := c.check(&c.writeDeadline); err != nil {
			return done, err
		}
		if done == len(b) {
			return done, nil
		}
		if c.mustWait() {
			if err := c.wait(c.writablec, &c.writeDeadline); err != nil {
				return done, err
			}
			continue
		}
		c.writeBuf.Reset(b[done:min(len(b), done+bulkSize)]) // anew each time: gVisor may take bytes and not accept them
		n, terr := c.ep.Write(&c.writeBuf, tcpip.WriteOptions{})
		done += int(n)
		c.notSent.add(int(n))
		if terr == nil {
			continue
		}
		if !wouldBlock(terr) {
			return done, c.errorOf(terr)
		}
		if c.growSendBuffer() {
			continue
		}
		if err := c.wait(c.writablec, &c.writeDeadline); err != nil {
			return done, err
		}
	}
}

// mustWait reports whether a writer has to wait until more has been sent. Nothing more will be on a
// connection that the peer has reset: gVisor then says why.
func (c *Conn) mustWait() bool { return c.notSent.full() && !c.flow.connEnded() }

// CloseWrite sends FIN once everything written has been sent; reading goes on.
func (c *Conn) CloseWrite() error {
	if c.isClosed() {
		return opError(opClose, "tcp", c.local, c.remote, net.ErrClosed)
	}
	return opError(opClose, "tcp", c.local, c.remote, errorOf(c.ep.Shutdown(tcpip.ShutdownWrite)))
}

// SetLinger decides, as net.TCPConn does, what Close does with data not yet sent: 0 seconds drops
// it and resets the connection, anything else sends it in the background.
func (c *Conn) SetLinger(sec int) error {
	c.linger.Store(sec == 0)
	return nil
}

// Close implements net.Conn. It unblocks Read and Write.
func (c *Conn) Close() error {
	if !c.release() {
		return opError(opClose, "tcp", c.local, c.remote, net.ErrClosed)
	}
	if c.linger.Load() {
		c.ep.Abort()
	} else {
		c.ep.Close()
	}
	if c.flow != nil && c.flow.connEnded() {
		c.queue.endFlow(c.flow)
	}
	c.memory.releaseWhenSent(c)
	return nil
}

// LocalAddr implements net.Conn; it is a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn; it is a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)
