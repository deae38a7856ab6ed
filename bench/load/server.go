package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Server is the service that clients reach through the proxies.
type Server struct {
	tcp net.Listener
	udp *net.UDPConn
	wg  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// Listen starts the service on an address, over TCP and UDP.
func Listen(addr string) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		ln.Close()
		return nil, err
	}
	s := &Server{tcp: ln, udp: udp.(*net.UDPConn), conns: make(map[net.Conn]struct{})}
	enlargeBuffers(s.udp)
	s.wg.Go(s.accept)
	s.wg.Go(s.countDatagrams)
	return s, nil
}

// Addr returns the address of the service.
func (s *Server) Addr() net.Addr { return s.tcp.Addr() }

// Close ends the service and all its connections, and waits for its goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.tcp.Close()
	s.udp.Close()
	s.wg.Wait()
	return nil
}

func (s *Server) accept() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		} else {
			s.conns[c] = struct{}{}
			s.wg.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

func (s *Server) serve(c net.Conn) {
	defer s.forget(c)
	head := make([]byte, requestSize)
	if _, err := io.ReadFull(c, head); err != nil {
		return
	}
	cc, err := congestionOf(head[1])
	if err != nil || cc.apply(c) != nil {
		return // the client sees that the connection is closed
	}
	size := binary.BigEndian.Uint32(head[4:])
	switch head[0] {
	case wantStream:
		if size <= maxPiece {
			stream(c, int(size))
		}
	case wantFetch:
		if sendPattern(c, uint64(size)) == nil {
			c.Read(head[:1]) // the client closes first
		}
	case wantStore:
		check(c, new(atomic.Uint64), uint64(size), func(count uint64) error { return writeFrame(c, count, nil) })
	case wantEcho:
		echo(c)
	case wantAnswer:
		var b [messageSize]byte
		if _, err := io.ReadFull(c, b[:]); err == nil {
			c.Write(b[:])
			c.Read(b[:1]) // the client closes first
		}
	}
}

func (s *Server) forget(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func echo(c net.Conn) {
	b := make([]byte, 4<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// stream sends frames and verifies what arrives. If the client sends nothing, the reading side
// waits for its end.
func stream(c net.Conn, size int) {
	var arrived atomic.Uint64
	if size == 0 {
		check(c, &arrived, 0, func(count uint64) error { return writeFrame(c, count, nil) })
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { check(c, &arrived, 0, func(uint64) error { return nil }) })
	for offset := uint64(0); ; offset += uint64(size) {
		if writeFrame(c, arrived.Load(), piece(offset, size)) != nil {
			break
		}
	}
	c.Close() // ends the reading side
	wg.Wait()
}

// sendPattern sends the first n bytes of the pattern.
func sendPattern(w io.Writer, n uint64) error {
	for offset := uint64(0); offset < n; offset += maxPiece {
		if _, err := w.Write(piece(offset, int(min(maxPiece, n-offset)))); err != nil {
			return err
		}
	}
	return nil
}

// check compares arriving data with the pattern. It calls tell with the count every countStep
// bytes, and when it reaches all.
func check(c net.Conn, arrived *atomic.Uint64, all uint64, tell func(count uint64) error) {
	b := make([]byte, maxPiece)
	var offset, told uint64
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if !matches(b[:n], offset) {
			arrived.Store(corrupt)
			tell(corrupt)
			io.Copy(io.Discard, c) // closing with unread data would reset the connection and discard what was told
			return
		}
		offset += uint64(n)
		arrived.Store(offset)
		if offset-told >= countStep || offset == all {
			told = offset
			if tell(offset) != nil {
				return
			}
		}
	}
}

func writeFrame(c net.Conn, count uint64, piece []byte) error {
	var head [countSize]byte
	binary.BigEndian.PutUint64(head[:], count)
	bufs := net.Buffers{head[:], piece}
	_, err := bufs.WriteTo(c)
	return err
}

// countDatagrams counts the datagrams of the latest run, which has the highest number. Late
// datagrams of other runs are ignored.
func (s *Server) countDatagrams() {
	var run, count uint64
	b := make([]byte, 64<<10)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		kind, of, _, whole := parseDatagram(b[:n])
		if of > run {
			run, count = of, 0
		}
		switch {
		case of < run:
			continue
		case count == corrupt:
		case !whole:
			count = corrupt
		case kind == datagramData:
			count++
		}
		if kind == datagramAsk {
			s.udp.WriteToUDPAddrPort(appendDatagram(nil, datagramAsk, run, count, datagramHeader), from)
		}
	}
}

// Run serves until the context ends. It writes Serving to out once it listens.
func Run(ctx context.Context, addr string, out io.Writer) error {
	s, err := Listen(addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, Serving)
	<-ctx.Done()
	return s.Close()
}

// Serving is the line that Run writes once the service is reachable.
const Serving = "serving"
