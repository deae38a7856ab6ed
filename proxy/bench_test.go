package proxy

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"
)

// benchTunnel opens a tunnel between two TCP sockets of the host.
func benchTunnel(t testing.TB, s *Server) (client, peer net.Conn) {
	t.Helper()
	tg := newTarget(t, "tcp")
	s.Dial = tg.dial
	c := dialChat(t, "tcp", serve(t, s))
	openers["socks5"](c)
	p := tg.accept()
	c.SetDeadline(time.Time{})
	p.SetDeadline(time.Time{})
	return c.Conn, p.Conn
}

func BenchmarkBulk(b *testing.B) {
	b.ReportAllocs()
	client, peer := benchTunnel(b, new(Server))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 256<<10)
		for {
			if _, err := peer.Read(buf); err != nil {
				return
			}
		}
	}()
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := client.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	<-done
}

func BenchmarkRoundTrip64(b *testing.B) {
	b.Run("tunnel", func(b *testing.B) {
		client, peer := benchTunnel(b, new(Server))
		roundTrips(b, client, peer)
	})
	b.Run("direct", func(b *testing.B) {
		tg := newTarget(b, "tcp")
		client, err := tg.dial(b.Context(), "", "")
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		roundTrips(b, client, tg.accept().Conn)
	})
}

func roundTrips(b *testing.B, client, peer net.Conn) {
	b.ReportAllocs()
	peer.SetDeadline(time.Time{})
	go io.CopyBuffer(struct{ io.Writer }{peer}, struct{ io.Reader }{peer}, make([]byte, 64))
	buf := make([]byte, 64)
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect opens a tunnel, passes one byte in each direction, and closes it.
func BenchmarkConnect(b *testing.B) {
	for name, open := range openers {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			tg := newTarget(b, "tcp")
			go func() {
				for {
					nc, err := tg.ln.Accept()
					if err != nil {
						return
					}
					go func() { io.CopyN(nc, nc, 1); nc.Close() }()
				}
			}()
			addr := serve(b, &Server{Dial: tg.dial})
			for b.Loop() {
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					b.Fatal(err)
				}
				c := &chat{b, nc}
				open(c)
				c.say("x").hear("x").Close()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conns/s")
		})
	}
}

func BenchmarkAbsolute(b *testing.B) {
	b.ReportAllocs()
	s := &Server{Dial: origin(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })}
	c := dialChat(b, "tcp", serve(b, s))
	c.SetDeadline(time.Time{})
	buf := make([]byte, 4096)
	for b.Loop() {
		c.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDatagram(b *testing.B) {
	b.ReportAllocs()
	s := &Server{ListenPacket: listenPacket}
	relay := openUDP(dialChat(b, "tcp", serve(b, s)))
	client, peer := listenUDP(b, "127.0.0.1"), listenUDP(b, "127.0.0.1")
	client.SetDeadline(time.Time{})
	peer.SetDeadline(time.Time{})
	request := datagramTo(addrOf(peer), "0123456789012345678901234567890123456789012345678901234567890123")
	buf := make([]byte, 1500)
	for b.Loop() {
		client.WriteToUDPAddrPort(request, relay)
		n, far, err := peer.ReadFromUDPAddrPort(buf)
		if err != nil {
			b.Fatal(err)
		}
		peer.WriteToUDPAddrPort(buf[:n], far)
		if _, err := client.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle measures the memory of an idle tunnel between two sockets.
func BenchmarkIdle(b *testing.B) {
	for name, open := range openers {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(idleMemory(b, 1000, open), "B/tunnel")
			}
		})
	}
}

// An idle tunnel holds at most 10 KiB of heap and stack.
func TestIdleTunnelIsSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what is allocated")
	}
	for name, open := range openers {
		if got := idleMemory(t, 300, open); got > 10<<10 {
			t.Errorf("%s: an idle tunnel holds %.0f bytes", name, got)
		}
	}
}

// Copying through a tunnel does not allocate.
func TestTunnelDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what is allocated")
	}
	client, peer := benchTunnel(t, new(Server))
	b := make([]byte, 64)
	if n := testing.AllocsPerRun(1000, func() {
		client.Write(b)
		peer.Read(b)
		peer.Write(b)
		client.Read(b)
	}); n > 0 {
		t.Errorf("a round trip allocates %v times", n)
	}
}

// idleMemory opens n tunnels and returns how much heap and stack each has added: the Server's two
// conns and what belongs to them. The test's own two conns are measured first and subtracted.
func idleMemory(t testing.TB, n int, open func(*chat)) float64 {
	t.Helper()
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial}
	addr := serve(t, s)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	pair := func(addr string, open func(*chat)) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c := &chat{t, nc}
		open(c)
		peer, err := tg.ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, nc, peer)
		p := &chat{t, peer}
		c.say("question")
		p.hear("question").say("answer")
		c.hear("answer")
	}
	for range n {
		pair(tg.ln.Addr().String(), func(*chat) {})
	}
	direct := inUse()
	for range n {
		pair(addr, open)
	}
	return (inUse() - direct) / float64(n)
}

// inUse returns the size of heap and stacks after the collector has emptied the pools and shrunk
// the stacks.
func inUse() float64 {
	for range 5 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse + m.StackInuse)
}
