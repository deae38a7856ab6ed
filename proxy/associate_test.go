package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// hostPackets is a socket of ListenPacket that sends on the host's network. It resolves only names.
type hostPackets struct {
	*net.UDPConn
	names map[string]netip.Addr
}

func (p hostPackets) WriteTo(b []byte, addr net.Addr) (int, error) {
	to := addr.(*Addr)
	ip := to.IP
	if to.Name != "" {
		var ok bool
		if ip, ok = p.names[to.Name]; !ok {
			return 0, &net.DNSError{Name: to.Name, IsNotFound: true}
		}
	}
	return p.WriteToUDPAddrPort(b, netip.AddrPortFrom(ip, to.Port))
}

func listenPacket(context.Context) (net.PacketConn, error) {
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	u.SetReadBuffer(1 << 20)
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return hostPackets{u, map[string]netip.Addr{"localhost": loopback, "x": loopback}}, nil
}

// openUDP requests an association without announcing the client's address. It returns the address
// that the client has to send to.
func openUDP(c *chat) netip.AddrPort {
	c.t.Helper()
	return requestUDP(c, "00 00 00 00", "00 00")
}

// requestUDP requests an association and announces ip and port, given in hexadecimal.
func requestUDP(c *chat, ip, port string) netip.AddrPort {
	c.t.Helper()
	c.send("05 01 00 05 03 00 01 " + ip + port).want("05 00 05 00 00 01")
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(b[4])<<8|uint16(b[5]))
}

func listenUDP(t testing.TB, ip string) *net.UDPConn {
	t.Helper()
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	u.SetDeadline(time.Now().Add(20 * time.Second))
	u.SetReadBuffer(1 << 20)
	return u
}

func addrOf(u *net.UDPConn) netip.AddrPort { return u.LocalAddr().(*net.UDPAddr).AddrPort() }

// exchange sends b to relay and returns what peer receives, and the address it came from.
func exchange(t *testing.T, client, peer *net.UDPConn, relay netip.AddrPort, b []byte) ([]byte, netip.AddrPort) {
	t.Helper()
	if _, err := client.WriteToUDPAddrPort(b, relay); err != nil {
		t.Fatal(err)
	}
	return receive(t, peer)
}

func receive(t *testing.T, u *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	got := make([]byte, 1<<16)
	n, from, err := u.ReadFromUDPAddrPort(got)
	if err != nil {
		t.Fatal(err)
	}
	return got[:n], from
}

func datagramTo(dst netip.AddrPort, data string) []byte {
	return append(appendDatagramHeader(nil, dst), data...)
}

func datagramToName(name string, port uint16, data string) []byte {
	return append([]byte{0, 0, 0, 3, byte(len(name))}, name+string([]byte{byte(port >> 8), byte(port)})+data...)
}

func TestUDP(t *testing.T) {
	s := &Server{ListenPacket: listenPacket}
	control := dialChat(t, "tcp", serve(t, s))
	relay := openUDP(control)
	client, peer := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	for _, request := range [][]byte{
		datagramTo(addrOf(peer), "by address"),
		datagramToName("localhost", addrOf(peer).Port(), "by name"),
		datagramToName("x", addrOf(peer).Port(), ""),
		datagramTo(addrOf(peer), ""),
	} {
		got, far := exchange(t, client, peer, relay, request)
		if want := request[len(request)-len(got):]; !bytes.Equal(got, want) {
			t.Errorf("peer got %q, want %q", got, want)
		}
		peer.WriteToUDPAddrPort([]byte("answer"), far)
		// The header of an answer has the address of its sender, not the name that the client sent to.
		answer, from := receive(t, client)
		if want := datagramTo(addrOf(peer), "answer"); !bytes.Equal(answer, want) || from != relay {
			t.Errorf("client got %q from %v, want %q from %v", answer, from, want, relay)
		}
	}
	for _, pass := range []func(){
		func() { exchange(t, client, peer, relay, datagramTo(addrOf(peer), "")) },
		func() {
			_, far := exchange(t, client, peer, relay, datagramTo(addrOf(peer), ""))
			active(s).Store(false)
			peer.WriteToUDPAddrPort(nil, far)
			receive(t, client)
		},
	} {
		active(s).Store(false)
		pass()
		eventually(t, "the association is marked active", func() bool { return active(s).Load() })
	}
	eventually(t, "the last datagrams are counted, which happens after they were sent", func() bool {
		got := s.Stats()
		return got.DatagramsSent == 6 && got.DatagramsReceived == 5
	})
	got := s.Stats()
	if got.DatagramsSent != 6 || got.DatagramsReceived != 5 || got.DatagramsDropped != 0 || got.OpenAssociations != 1 ||
		got.BytesSent != uint64(len("by address"+"by name")) || got.BytesReceived != 4*uint64(len("answer")) {
		t.Errorf("counted %+v", got)
	}
	// A datagram from an address that the client has not sent to is forwarded too. Filtering is left
	// to the network behind the proxy.
	stranger := listenUDP(t, "127.0.0.1")
	_, far := exchange(t, client, peer, relay, datagramTo(addrOf(peer), "x"))
	stranger.WriteToUDPAddrPort([]byte("hello"), far)
	if got, _ := receive(t, client); !bytes.Equal(got, datagramTo(addrOf(stranger), "hello")) {
		t.Errorf("client got %q", got)
	}
	control.Close()
	eventually(t, "the association ends with its control connection", func() bool {
		return s.Stats().OpenAssociations == 0
	})
}

// active returns the field active of the only association.
func active(s *Server) *atomic.Bool {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	for x := range s.live.closers {
		if c, ok := x.(*conn); ok {
			return &c.attached.(*association).active
		}
	}
	panic("no association")
}

// The largest datagrams that UDP over IPv4 can carry pass in both directions.
func TestUDPLargestDatagrams(t *testing.T) {
	s := &Server{ListenPacket: listenPacket}
	relay := openUDP(dialChat(t, "tcp", serve(t, s)))
	client, peer := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	const most = 65507
	data := strings.Repeat("0123456789abcdef", 4096)[:most-10]
	got, far := exchange(t, client, peer, relay, datagramTo(addrOf(peer), data))
	if string(got) != data {
		t.Fatalf("peer got %d bytes, want %d", len(got), len(data))
	}
	peer.WriteToUDPAddrPort([]byte(data), far)
	if answer, _ := receive(t, client); !bytes.Equal(answer, datagramTo(addrOf(peer), data)) {
		t.Fatalf("client got %d bytes", len(answer))
	}
	// A datagram that is too long together with its header is dropped, not truncated.
	peer.WriteToUDPAddrPort(make([]byte, most), far)
	eventually(t, "a drop", func() bool { return s.Stats().DatagramsDropped == 1 })
}

func TestUDPDrops(t *testing.T) {
	tests := map[string][]byte{
		"empty":                      {},
		"short":                      {0, 0, 0, 1},
		"no port":                    {0, 0, 0, 1, 127, 0, 0, 1, 0},
		"a fragment":                 {0, 0, 1, 1, 127, 0, 0, 1, 0, 9, 'x'},
		"the last fragment":          {0, 0, 0x81, 1, 127, 0, 0, 1, 0, 9, 'x'},
		"unknown ATYP":               {0, 0, 0, 2, 127, 0, 0, 1, 0, 9, 'x'},
		"an empty name":              {0, 0, 0, 3, 0, 0, 9, 'x'},
		"a name cut off":             {0, 0, 0, 3, 9, 'x', 0, 9},
		"a name with a line end":     {0, 0, 0, 3, 1, '\n', 0, 9, 'x'},
		"a name that does not exist": datagramToName("nobody", 9, "x"),
		"IPv6 cut off":               {0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0},
		"an address out of reach":    datagramTo(netip.MustParseAddrPort("[::1]:9"), "x"), // the far socket is IPv4
	}
	s := &Server{ListenPacket: listenPacket}
	relay := openUDP(dialChat(t, "tcp", serve(t, s)))
	client, peer := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	n := uint64(0)
	for name, b := range tests {
		client.WriteToUDPAddrPort(b, relay)
		n++
		eventually(t, name+" is dropped", func() bool { return s.Stats().DatagramsDropped == n })
	}
	if got, _ := exchange(t, client, peer, relay, datagramTo(addrOf(peer), "still works")); string(got) != "still works" {
		t.Errorf("got %q", got)
	}
}

// "The UDP relay server MUST [...] drop any datagrams arriving from any source IP address other
// than the one recorded for the particular association" (RFC 1928 section 7).
func TestUDPForeignSenders(t *testing.T) {
	client, peer := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	port := unhexPort(addrOf(client).Port())
	for _, tt := range []struct {
		name, ip, port string
		foreign        string // an address that is refused even before the first datagram
	}{
		{"nothing announced", "00 00 00 00", "00 00", "127.0.0.2"},
		{"port announced", "00 00 00 00", port, "127.0.0.1"},
		{"address announced", "7f 00 00 01", "00 00", "127.0.0.2"},
		{"address and port announced", "7f 00 00 01", port, "127.0.0.1"},
		{"address announced, before NAT", "0a 01 02 03", "12 34", "127.0.0.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Server{ListenPacket: listenPacket}
			control := dialChat(t, "tcp", serve(t, s))
			relay := requestUDP(control, tt.ip, tt.port)
			foreign := listenUDP(t, tt.foreign)
			foreign.WriteToUDPAddrPort(datagramTo(addrOf(peer), "foreign"), relay)
			eventually(t, "a drop", func() bool { return s.Stats().DatagramsDropped == 1 })

			if got, _ := exchange(t, client, peer, relay, datagramTo(addrOf(peer), "own")); string(got) != "own" {
				t.Errorf("peer got %q", got)
			}
			// The first datagram has told the port.
			other := listenUDP(t, "127.0.0.1")
			other.WriteToUDPAddrPort(datagramTo(addrOf(peer), "other"), relay)
			eventually(t, "another drop", func() bool { return s.Stats().DatagramsDropped == 2 })
		})
	}
}

func unhexPort(port uint16) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[port>>12], digits[port>>8&15], ' ', digits[port>>4&15], digits[port&15]})
}

// A datagram for a client whose port is not known yet is dropped.
func TestUDPBeforeClientIsKnown(t *testing.T) {
	far := make(chan netip.AddrPort, 1)
	s := &Server{ListenPacket: func(ctx context.Context) (net.PacketConn, error) {
		p, err := listenPacket(ctx)
		far <- p.LocalAddr().(*net.UDPAddr).AddrPort()
		return p, err
	}}
	openUDP(dialChat(t, "tcp", serve(t, s)))
	listenUDP(t, "127.0.0.1").WriteToUDPAddrPort([]byte("early"), <-far)
	eventually(t, "a drop", func() bool { return s.Stats().DatagramsDropped == 1 })
}

func TestUDPOverIPv6(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on this machine:", err)
	}
	s := &Server{ListenPacket: listenPacket}
	c := dialChat(t, "tcp", serveOn(t, s, ln).String())
	c.send("05 01 00 05 03 00 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00").
		want("05 00 05 00 00 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01")
	port := make([]byte, 2)
	io.ReadFull(c, port)
	relay := netip.AddrPortFrom(netip.IPv6Loopback(), uint16(port[0])<<8|uint16(port[1]))
	client, peer := listenUDP(t, "::1"), listenUDP(t, "127.0.0.1")
	got, far := exchange(t, client, peer, relay, datagramTo(addrOf(peer), "over"))
	peer.WriteToUDPAddrPort([]byte("back"), far)
	if answer, _ := receive(t, client); string(got) != "over" || !bytes.Equal(answer, datagramTo(addrOf(peer), "back")) {
		t.Errorf("got %q and %q", got, answer)
	}
}

func TestUDPIsBounded(t *testing.T) {
	s := &Server{ListenPacket: listenPacket, MaxAssociations: 2}
	addr := serve(t, s)
	first := dialChat(t, "tcp", addr)
	openUDP(first)
	openUDP(dialChat(t, "tcp", addr))
	dialChat(t, "tcp", addr).send("05 01 00 05 03 00 01 00 00 00 00 00 00").
		want("05 00 05 01 00 01 00 00 00 00 00 00").wantEnd()
	first.Close()
	eventually(t, "room", func() bool { return s.Stats().OpenAssociations == 1 })
	openUDP(dialChat(t, "tcp", addr))
}

// Single errors of the far socket, such as an ICMP port unreachable, do not end an association. Too
// many consecutive ones do.
func TestUDPFarErrors(t *testing.T) {
	for _, tt := range []struct {
		errors int64
		stands bool
	}{{1, true}, {maxFarErrors - 1, true}, {maxFarErrors, false}} {
		t.Run(fmt.Sprint(tt.errors), func(t *testing.T) {
			s := &Server{ListenPacket: func(ctx context.Context) (net.PacketConn, error) {
				p, err := listenPacket(ctx)
				failing := &failingPackets{hostPackets: p.(hostPackets)}
				failing.left.Store(tt.errors)
				return failing, err
			}}
			control := dialChat(t, "tcp", serve(t, s))
			relay := openUDP(control)
			client, peer := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
			_, far := exchange(t, client, peer, relay, datagramTo(addrOf(peer), "question"))
			peer.WriteToUDPAddrPort([]byte("answer"), far)
			if !tt.stands {
				control.wantGone()
				return
			}
			if got, _ := receive(t, client); !bytes.Equal(got, datagramTo(addrOf(peer), "answer")) {
				t.Errorf("client got %q", got)
			}
		})
	}
}

type failingPackets struct {
	hostPackets
	left atomic.Int64
}

func (p *failingPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	if p.left.Add(-1) >= 0 {
		return 0, nil, syscall.ECONNREFUSED
	}
	return p.hostPackets.ReadFrom(b)
}

// A far socket that is opened after Close is closed, and the association is counted off once.
func TestUDPClosedWhileOpening(t *testing.T) {
	var far net.PacketConn
	s := new(Server)
	s.ListenPacket = func(ctx context.Context) (net.PacketConn, error) {
		go s.Close()
		<-ctx.Done()
		var err error
		far, err = listenPacket(t.Context())
		return far, err
	}
	c := dialChat(t, "tcp", serve(t, s))
	c.send("05 01 00 05 03 00 01 00 00 00 00 00 00")
	discardAll(c)
	s.Close()
	if got := s.Stats().OpenAssociations; got != 0 {
		t.Errorf("%d associations are open", got)
	}
	if err := far.Close(); !errors.Is(err, net.ErrClosed) {
		t.Error("the far socket was left open")
	}
}

func TestUDPRefused(t *testing.T) {
	const ask = "05 01 00 05 03 00 01 00 00 00 00 00 00"
	s := &Server{ListenPacket: func(context.Context) (net.PacketConn, error) { return nil, syscall.EACCES }}
	dialChat(t, "tcp", serve(t, s)).send(ask).want("05 00 05 02 00 01 00 00 00 00 00 00").wantEnd()
	if got := s.Stats(); got.OpenAssociations != 0 || got.DialFailures.Denied != 1 {
		t.Errorf("counted %+v", got)
	}
	// A client on a unix socket has no address by which its datagrams could be recognized.
	addr := serveKind(t, "unix", &Server{ListenPacket: listenPacket})
	dialChat(t, "unix", addr.String()).send(ask).want("05 00 05 07 00 01 00 00 00 00 00 00").wantEnd()
}

// An association ends when no datagram has passed for IdleTimeout, and not before.
func TestUDPIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Host sockets do not work in a synctest bubble, so only the goroutine that ends the association
		// runs here.
		var log syncBuffer
		s := &Server{IdleTimeout: time.Minute, ConnLog: slog.New(slog.NewTextHandler(&log, nil))}
		s.setup.Do(s.prepare)
		client, server := memPipe()
		as := &association{srv: s, control: &conn{Conn: server, srv: s}}
		s.counters.openConnections.Add(1)
		as.open.Store(1)
		begun := time.Now()
		s.live.wg.Go(as.awaitEnd)
		for range 10 {
			time.Sleep(30 * time.Second)
			as.active.Store(true)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		// awaitEnd checks once per IdleTimeout.
		if took := time.Since(begun) - 300*time.Second; took < time.Minute || took > 2*time.Minute {
			t.Errorf("ended %v after the last datagram", took)
		}
		synctest.Wait()
		if !strings.Contains(log.String(), errIdle.Error()) {
			t.Errorf("log is %q", log.String())
		}
		s.Close()
	})
}

func TestParseDatagramTruncated(t *testing.T) {
	for _, whole := range [][]byte{
		datagramTo(netip.MustParseAddrPort("1.2.3.4:5"), ""),
		datagramTo(netip.MustParseAddrPort("[1::2]:5"), ""),
		datagramToName("some.name", 5, ""),
	} {
		var dst Addr
		for i := range whole {
			if n, err := parseDatagram(whole[:i], &dst); !errors.Is(err, errDatagram) {
				t.Errorf("% x: got %d, %v", whole[:i], n, err)
			}
		}
		if n, err := parseDatagram(whole, &dst); n != len(whole) || err != nil {
			t.Errorf("% x: got %d, %v", whole, n, err)
		}
	}
}

func TestDatagramHeaders(t *testing.T) {
	for _, tt := range []struct {
		hex  string
		want string
	}{
		{"00 00 00 01 01 02 03 04 00 50", "1.2.3.4:80"},
		{"00 00 00 04 fd 7a 11 5c a1 e0 00 00 00 00 00 00 00 00 00 01 01 bb", "[fd7a:115c:a1e0::1]:443"},
		{"00 00 00 04 00 00 00 00 00 00 00 00 00 00 ff ff 01 02 03 04 00 50", "1.2.3.4:80"},
		{"00 00 00 03 01 61 00 50", "a:80"},
		{"ff ff 00 03 01 61 00 50", "a:80"},                                       // RSV is ignored
		{"00 00 00 03 09 5b 66 64 30 30 3a 3a 31 5d 00 50", "[fd00::1]:80"},       // the name [fd00::1]
		{"00 00 00 03 0a 66 65 38 30 3a 3a 31 25 6c 6f 00 50", "[fe80::1%lo]:80"}, // the name fe80::1%lo
	} {
		var dst Addr
		b := unhex(t, tt.hex)
		if n, err := parseDatagram(b, &dst); n != len(b) || err != nil || dst.String() != tt.want {
			t.Errorf("%s: got %v, %d, %v, want %s", tt.hex, dst, n, err, tt.want)
		}
	}
}

// Parsing and appending a header do not allocate.
func TestDatagramHeaderAllocations(t *testing.T) {
	b := datagramToName("some.name.of.the.mesh", 5, "data")
	var dst Addr
	if n := testing.AllocsPerRun(100, func() { parseDatagram(b, &dst) }); n > 0 {
		t.Errorf("parsing allocates %v times", n)
	}
	buf := make([]byte, 0, datagramHeader)
	src := netip.MustParseAddrPort("[1::2]:5")
	if n := testing.AllocsPerRun(100, func() { appendDatagramHeader(buf, src) }); n > 0 {
		t.Errorf("formatting allocates %v times", n)
	}
}
