package server

import (
	"io"
	"net"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// record returns what one read brings of a bulk transfer: as many full-size packets as fit into a
// TLS record.
func record(to key.NodePublic) []byte {
	var b []byte
	packet := make([]byte, relaytest.PacketSize)
	for len(b)+derp.SendOverhead+len(packet) <= derp.RecordBuffer {
		b = derp.AppendSendPacket(b, to, packet)
	}
	return b
}

const recordPackets = derp.RecordBuffer / (derp.SendOverhead + relaytest.PacketSize)

// repeatReader yields b again and again.
type repeatReader struct {
	b []byte
	r int
}

func (r *repeatReader) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.r:])
	r.r = (r.r + n) % len(r.b)
	return n, nil
}

// forwardPath is a sender and a receiver of a server.
type forwardPath struct {
	s        *Server
	from, to *serverConn
}

// newForwardPath returns a path to a receiver. If direct, the sender writes to TCP itself;
// otherwise the draining goroutine writes to a discarding connection.
func newForwardPath(tb testing.TB, direct bool) *forwardPath {
	s := newTestServer(tb, Config{})
	f := &forwardPath{s: s, from: bareConn(s, key.NewNodePrivate().Public()),
		to: bareConn(s, key.NewNodePrivate().Public())}
	f.from.in.Open(&repeatReader{b: record(f.to.key)})
	if direct {
		near, far := relaytest.TCPPair(tb)
		go io.Copy(io.Discard, far)
		base := derp.WrapTCP(near, net.KeepAliveConfig{})
		f.to.conn = derp.NewFrameConn(base, base, time.Second)
		f.to.conn.Start(f.to.out.StartDrain)
	} else {
		f.to.conn = derp.NewFrameConn(discardConn{}, discardConn{}, time.Second)
	}
	f.to.out.Attach(f.to.conn)
	return f
}

// step forwards what one read brings.
func (f *forwardPath) step(tb testing.TB) {
	for len(f.from.in.Buffered()) < derp.RecordBuffer/2 {
		if _, err := f.from.in.Read(); err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.from.handleFrames(); err != nil {
		tb.Fatal(err)
	}
}

func (f *forwardPath) close() {
	f.from.unregister()
	f.to.unregister()
	f.to.out.Close()
	f.to.conn.Fail(net.ErrClosed)
	f.from.in.Release()
}

// discardConn discards what is written.
type discardConn struct{ net.Conn }

func (discardConn) Write(p []byte) (int, error)      { return len(p), nil }
func (discardConn) SetWriteDeadline(time.Time) error { return nil }
func (discardConn) Close() error                     { return nil }

// A packet crosses the server without allocations, whether the sender writes it or it is queued.
func TestForwardAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		direct bool
		most   float64 // for each record of 11 packets: a goroutine may have to be started to drain the queue
	}{{"direct", true, 0}, {"queued", false, 4}} {
		t.Run(c.name, func(t *testing.T) {
			f := newForwardPath(t, c.direct)
			defer f.close()
			for range 1000 {
				f.step(t)
			}
			if n := testing.AllocsPerRun(2000, func() { f.step(t) }); n > c.most+relaytest.RaceSlack {
				t.Errorf("%v allocations for %d packets", n, recordPackets)
			}
		})
	}
}

// BenchmarkForward is the server's work for a packet without TLS: from the read buffer to the
// receiver's socket, or to its queue and out again.
func BenchmarkForward(b *testing.B) {
	for _, direct := range []bool{true, false} {
		name := map[bool]string{true: "direct", false: "queued"}[direct]
		b.Run(name, func(b *testing.B) {
			f := newForwardPath(b, direct)
			defer f.close()
			b.ReportAllocs()
			b.SetBytes(recordPackets * relaytest.PacketSize)
			for b.Loop() {
				f.step(b)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/recordPackets, "ns/packet")
		})
	}
}
