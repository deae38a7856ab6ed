package node

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
)

// piece is the unit in which benchmarks write: the payload of a GSO segment, which is cut into 45
// packets.
const piece = 61560

// connected starts two nodes with a TCP connection between them over the given kind of path.
func connected(b testing.TB, path PathKind) (c, s net.Conn) {
	b.Helper()
	m := newMesh(b)
	here, there := m.add("here"), m.add("there")
	there.startReady()
	here.startReady()
	ln, err := there.Listen(netip.AddrPortFrom(there.addr, 9))
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	if c, err = here.DialContext(b.Context(), "tcp", "there:9"); err != nil {
		b.Fatal(err)
	}
	if s, err = ln.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(); s.Close() })
	if path == PathDirect {
		m.introduce()
		here.Node.Ping(b.Context(), "there")
		eventually(b, "a direct path",
			func() bool { return here.path(there) == PathDirect && there.path(here) == PathDirect })
	}
	return c, s
}

// benchBulk sends data one way through WireGuard and reports the allocations for each packet of
// 1420 bytes.
func benchBulk(b *testing.B, path PathKind) {
	c, s := connected(b, path)
	received := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, s)
		received <- n
	}()
	buf := make([]byte, piece)
	for range 200 { // pools and windows fill
		c.Write(buf)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.SetBytes(piece)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N)/45, "allocs/packet")
	c.(interface{ CloseWrite() error }).CloseWrite()
	if n, want := <-received, int64(b.N+200)*piece; n != want {
		b.Errorf("%d bytes received, %d sent", n, want)
	}
}

func BenchmarkBulkDirect(b *testing.B) { benchBulk(b, PathDirect) }
func BenchmarkBulkRelay(b *testing.B)  { benchBulk(b, PathRelay) }

// benchRoundTrip exchanges 64 bytes each way.
func benchRoundTrip(b *testing.B, path PathKind) {
	c, s := connected(b, path)
	go io.Copy(s, s)
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTripDirect(b *testing.B) { benchRoundTrip(b, PathDirect) }
func BenchmarkRoundTripRelay(b *testing.B)  { benchRoundTrip(b, PathRelay) }
