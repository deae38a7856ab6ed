package load

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ginnel/proxy"
)

// newTarget starts a service.
func newTarget(t *testing.T) netip.AddrPort {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return netip.MustParseAddrPort(s.Addr().String())
}

// outlet converts the proxy's type of UDP addresses for a standard socket.
type outlet struct{ net.PacketConn }

func (o outlet) WriteTo(b []byte, to net.Addr) (int, error) {
	a, err := netip.ParseAddrPort(to.String())
	if err != nil {
		return 0, err
	}
	return o.PacketConn.WriteTo(b, net.UDPAddrFromAddrPort(a))
}

// newProxy starts a proxy that connects by dial.
func newProxy(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy.Server{Dial: dial, ListenPacket: func(context.Context) (net.PacketConn, error) {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		return outlet{c}, err
	}}
	go p.Serve(ln)
	t.Cleanup(func() { p.Close() })
	return ln.Addr().String()
}

// measurements returns one specification of every kind, each as short as possible.
func measurements(p Proxy, target netip.AddrPort) []Spec {
	short := Spec{Proxy: p, Target: target, Conns: 2, Duration: 20 * time.Millisecond, PIDs: []int{os.Getpid()}}
	kind := func(k Kind, d Direction) Spec {
		s := short
		s.Kind, s.Direction = k, d
		return s
	}
	move := func(k Kind, d Direction) Spec {
		s := kind(k, d)
		s.Bytes, s.Duration = 200_000, handshakeLimit
		return s
	}
	beside := kind(Bulk, Down)
	beside.Beside, beside.Rival = 2, &Rival{Proxy{Kind: Direct}, target}
	return []Spec{
		kind(Bulk, Down), kind(Bulk, Up), kind(Bulk, Both), beside, kind(RoundTrips, ""), kind(Requests, ""), kind(Idle, ""),
		kind(First, ""),
		move(Transfer, Down), move(Transfer, Up), move(Fetches, Down), kind(Crowd, ""),
	}
}

// TestMeasure proves that each measurement returns its figures with either protocol and without a
// proxy.
func TestMeasure(t *testing.T) {
	target := newTarget(t)
	addr := newProxy(t, new(net.Dialer).DialContext)
	want := map[Kind][]string{
		Bulk: {"mbps", "cpu_s_per_gb", "peak_mb"}, RoundTrips: {"p50_us", "p99_us"}, Requests: {"per_s"},
		Idle: {"kb_per_conn"}, First: {"unix_s"},
		Transfer: {"s", "mb", "mbps"}, Fetches: {"p50_ms"}, Crowd: {"served_percent", "served_s", "per_s"},
	}
	for _, p := range []Proxy{{Kind: Direct}, {Kind: SOCKS5, Addr: addr}, {Kind: CONNECT, Addr: addr}} {
		t.Run(string(p.Kind), func(t *testing.T) {
			t.Parallel() // some measurements only wait
			for _, s := range measurements(p, target) {
				f, err := Measure(t.Context(), s)
				if err != nil {
					t.Errorf("%s %s: %v", s.Kind, s.Direction, err)
				}
				names := want[s.Kind]
				if s.Beside > 0 {
					names = append(names, "beside_p50_ms", "beside_p99_ms", "rival_mbps", "rival_percent")
				}
				for _, name := range names {
					if v, ok := f[name]; !ok || v <= 0 && name != "kb_per_conn" && name != "cpu_s_per_gb" &&
						!strings.HasPrefix(name, "rival") {
						t.Errorf("%s %s: %s is %v", s.Kind, s.Direction, name, v)
					}
				}
			}
		})
	}
}

// TestDatagrams proves that datagrams pass a proxy and are counted.
func TestDatagrams(t *testing.T) {
	target := newTarget(t)
	p := Proxy{Kind: SOCKS5, Addr: newProxy(t, new(net.Dialer).DialContext)}
	a, err := associate(t.Context(), p, target)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	sent, _, err := a.flood(t.Context(), 9, 1000, 20*time.Millisecond)
	if err != nil || sent == 0 {
		t.Fatalf("sent %d, %v", sent, err)
	}
	for {
		n, err := a.count(t.Context(), 9, time.Second)
		if err != nil || n > sent {
			t.Fatalf("%d of %d arrived, %v", n, sent, err)
		}
		if n == sent {
			break
		}
	}
	if n, err := a.count(t.Context(), 10, time.Second); n != 0 || err != nil {
		t.Errorf("a new run starts with count %d, %v", n, err)
	}
	if _, err := a.send(nil, datagramData, 9, 0, datagramSize); err != nil {
		t.Fatal(err)
	}
	if n, err := a.count(t.Context(), 10, time.Second); n != 0 || err != nil {
		t.Errorf("after a datagram of an earlier run: count %d, %v", n, err)
	}
}

// corruptingConn is a connection that changes one byte in each direction.
type corruptingConn struct {
	net.Conn
	left int
}

func (l *corruptingConn) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if l.left >= 0 && l.left < n {
		b[l.left] ^= 1
	}
	l.left -= n
	return n, err
}

func (l *corruptingConn) Write(b []byte) (int, error) {
	c := append([]byte(nil), b...)
	if len(c) > requestSize+40 {
		c[requestSize+30] ^= 1
	}
	return l.Conn.Write(c)
}

// TestCorrupt proves that a proxy that changes bytes gets no figures.
func TestCorrupt(t *testing.T) {
	target := newTarget(t)
	addr := newProxy(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &corruptingConn{c, countSize + 20}, err
	})
	for _, s := range measurements(Proxy{Kind: SOCKS5, Addr: addr}, target) {
		if s.Kind == First {
			continue // it repeats its request until the answer is right
		}
		if f, err := Measure(t.Context(), s); !errors.Is(err, errCorrupt) {
			t.Errorf("%s %s: got %v, %v, want %v", s.Kind, s.Direction, f, err, errCorrupt)
		}
	}
}

// TestNothingArrives proves that a proxy that discards all data gets no figures.
func TestNothingArrives(t *testing.T) {
	target := newTarget(t)
	addr := newProxy(t, func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		return near, nil
	})
	for _, s := range measurements(Proxy{Kind: SOCKS5, Addr: addr}, target) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if f, err := Measure(ctx, s); err == nil {
			t.Errorf("%s %s: got %v, want an error", s.Kind, s.Direction, f)
		}
		cancel()
	}
}

// TestRefused proves that a refusal of the proxy, and a proxy that does not listen, are errors.
func TestRefused(t *testing.T) {
	target := newTarget(t)
	addr := newProxy(t, func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no") })
	for _, p := range []Proxy{{Kind: SOCKS5, Addr: addr}, {Kind: CONNECT, Addr: addr},
		{Kind: SOCKS5, Addr: "127.0.0.1:1"}} {
		if _, err := Measure(t.Context(), Spec{Kind: RoundTrips, Proxy: p, Target: target}); err == nil {
			t.Errorf("%v: want an error", p)
		}
	}
	if _, err := Measure(t.Context(), Spec{Kind: "nonsense"}); err == nil {
		t.Error("unknown kind of measurement: want an error")
	}
}
