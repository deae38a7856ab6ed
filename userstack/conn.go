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

// socket is a gVisor endpoint and the means to wait for it.
type socket struct {
	ep         tcpip.Endpoint
	wq         *waiter.Queue
	readEntry  waiter.Entry
	writeEntry waiter.Entry

	readablec   signal        // the endpoint may have become readable
	writablec   signal        // the endpoint may have become writable
	closec      chan struct{} // closed by release
	closed      atomic.Bool
	stackClosed *atomic.Bool // Stack.closed
}

// attach takes over ep, an endpoint of stack, and registers for its events.
func (s *socket) attach(stack *Stack, ep tcpip.Endpoint, wq *waiter.Queue) {
	s.ep, s.wq, s.stackClosed = ep, wq, &stack.closed
	s.readablec, s.writablec = make(signal, 1), make(signal, 1)
	s.closec = make(chan struct{})
	const always = waiter.EventErr | waiter.EventHUp
	s.readEntry.Init(s.readablec, waiter.ReadableEvents|always)
	s.writeEntry.Init(s.writablec, waiter.WritableEvents|always)
	wq.EventRegister(&s.readEntry)
	wq.EventRegister(&s.writeEntry)
}

// signal is a waiter.EventListener. It needs room for one item, so that no event is missed.
type signal chan struct{}

// NotifyEvent implements waiter.EventListener. It never blocks.
func (c signal) NotifyEvent(waiter.EventMask) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// release ends all waits and returns true, or returns false if it was called before. It does not
// close the endpoint.
func (s *socket) release() bool {
	if s.closed.Swap(true) {
		return false
	}
	s.wq.EventUnregister(&s.readEntry)
	s.wq.EventUnregister(&s.writeEntry)
	close(s.closec)
	return true
}

// wait blocks until c is signalled, the deadline expires or the socket is closed.
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

// isClosed reports whether the socket or the stack is closed.
func (s *socket) isClosed() bool { return s.closed.Load() || s.stackClosed.Load() }

// errorOf translates an error of the endpoint. Once the socket or the stack is closed, every error
// is net.ErrClosed.
func (s *socket) errorOf(err tcpip.Error) error {
	if s.isClosed() {
		return net.ErrClosed
	}
	return errorOf(err)
}

// check returns the error with which a call must fail before it does anything, or nil.
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

// Conn is a TCP connection of the stack. It is a net.Conn with CloseWrite. Bulk data move between a
// Conn and a host socket without buffers in between: see ReadFrom and WriteTo.
type Conn struct {
	socket
	deadlines
	local, remote net.Addr
	linger        atomic.Bool // Close resets the connection; see SetLinger

	rmu     sync.Mutex        // one reader at a time
	readBuf tcpip.SliceWriter // the destination of read; a field, so that it is not allocated per call

	wmu      sync.Mutex   // one writer at a time
	writeBuf bytes.Reader // the source of write; a field for the same reason

	mss         int // payload bytes of a full packet of gVisor
	segmentSize int // payload bytes of the largest segment; ReadFrom writes as many at a time
	memory      *memory
	share       *share      // what the connection may buffer
	growth      windowSizer // of the receive window; owned by the reader

	notSent          // bytes that were written and not sent
	queue   *Queue   // the queue of its outbound packets
	flow    *tcpFlow // nil if gVisor alone decides when to send
}

// newConn takes over a connected endpoint and its share of the memory.
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
		// Reset each time, because gVisor may read bytes and then not accept them.
		c.writeBuf.Reset(b[done:min(len(b), done+bulkSize)])
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

// mustWait reports whether a writer must wait until more has been sent. On a connection that the
// peer has reset nothing more will be sent, so the writer goes on and gets the error from gVisor.
func (c *Conn) mustWait() bool { return c.notSent.full() && !c.flow.connEnded() }

// CloseWrite sends FIN after everything that was written. Reading goes on.
func (c *Conn) CloseWrite() error {
	if c.isClosed() {
		return opError(opClose, "tcp", c.local, c.remote, net.ErrClosed)
	}
	return opError(opClose, "tcp", c.local, c.remote, errorOf(c.ep.Shutdown(tcpip.ShutdownWrite)))
}

// SetLinger sets what Close does with data that are not sent yet, as for net.TCPConn: 0 seconds
// discards them and resets the connection, any other value sends them in the background.
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
