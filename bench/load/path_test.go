package load

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// stallingConn is a connection that delivers a number of bytes and then blocks until it is closed.
type stallingConn struct {
	net.Conn
	left  int
	donec chan struct{}
}

func (s *stallingConn) Read(b []byte) (int, error) {
	if s.left == 0 {
		<-s.donec
		return 0, io.EOF
	}
	n, err := s.Conn.Read(b[:min(len(b), s.left)])
	s.left -= n
	return n, err
}

func (s *stallingConn) Close() error {
	select {
	case <-s.donec:
	default:
		close(s.donec)
	}
	return s.Conn.Close()
}

// TestUnfinished proves that a transfer that reaches its limit reports what has arrived, and that a
// fetch counts with its limit.
func TestUnfinished(t *testing.T) {
	target := newTarget(t)
	addr := newProxy(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &stallingConn{c, 100_000, make(chan struct{})}, err
	})
	const limit = 50 * time.Millisecond
	s := Spec{Kind: Transfer, Proxy: Proxy{Kind: SOCKS5, Addr: addr}, Target: target, Direction: Down, Bytes: 1_000_000,
		Duration: limit}
	f, err := Measure(t.Context(), s)
	if err != nil || f["mb"] != 0.1 || f["s"] < limit.Seconds() {
		t.Errorf("got %v, %v, want 0.1 MB", f, err)
	}
	s.Kind = Fetches
	f, err = Measure(t.Context(), s)
	if err != nil || f["unfinished"] < 1 || f["p50_ms"] < milliseconds(limit) {
		t.Errorf("got %v, %v, want an unfinished fetch", f, err)
	}
}

// TestStore proves that an upload ends when the service has all of it, even if the size is not a
// multiple of the step in which it counts.
func TestStore(t *testing.T) {
	target := newTarget(t)
	for _, bytes := range []int{1, countStep - 1, countStep, countStep + 1, 5*countStep + 7} {
		s := Spec{Kind: Transfer, Proxy: Proxy{Kind: Direct}, Target: target, Direction: Up, Bytes: bytes,
			Duration: handshakeLimit}
		if f, err := Measure(t.Context(), s); err != nil || f["mb"] != float64(bytes)/1e6 {
			t.Errorf("%d bytes: got %v, %v", bytes, f, err)
		}
	}
}

// TestWindow proves the calculation of the slowest connection's share and of the rival's.
func TestWindow(t *testing.T) {
	w := window{arrived: []uint64{3_000_000, 1_000_000, 4_000_000}, took: time.Second}
	f := make(Figures)
	w.figures(f, &Spec{Conns: 2, Rival: new(Rival)})
	want := Figures{"mbps": 32, "stalled": 0, "least_percent": 25, "rival_mbps": 32, "rival_percent": 50}
	for name, v := range want {
		if f[name] != v {
			t.Errorf("%s: got %v, want %v", name, f[name], v)
		}
	}
	f = make(Figures)
	w = window{arrived: []uint64{1_000_000}, took: time.Second}
	if w.figures(f, &Spec{Conns: 1}); len(f) != 2 || f["mbps"] != 8 {
		t.Errorf("one connection: got %v", f)
	}
}

// TestCrowd proves that refused connections are counted and the others measured.
func TestCrowd(t *testing.T) {
	target := newTarget(t)
	places := make(chan struct{}, 7)
	addr := newProxy(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case places <- struct{}{}:
			return new(net.Dialer).DialContext(ctx, network, addr)
		default:
			return nil, io.EOF
		}
	})
	f, err := Measure(t.Context(), Spec{
		Kind: Crowd, Proxy: Proxy{Kind: SOCKS5, Addr: addr}, Target: target, Conns: 10, Duration: 20 * time.Millisecond,
	})
	if err != nil || f["failed"] != 3 || f["served_percent"] != 70 || f["per_s"] <= 0 {
		t.Errorf("got %v, %v, want 3 failed", f, err)
	}
}

// TestQuiet proves that a working program shows activity, and that the busiest of several programs
// counts.
func TestQuiet(t *testing.T) {
	f, err := Measure(t.Context(), Spec{Kind: Quiet, Duration: 50 * time.Millisecond,
		PIDs: []int{os.Getppid(), os.Getpid()}})
	if err != nil || f["wakeups_per_s"] <= 0 || f["cpu_percent"] < 0 {
		t.Errorf("got %v, %v", f, err)
	}
	if f, err := Measure(t.Context(), Spec{Kind: Quiet, PIDs: []int{1 << 30}}); err == nil {
		t.Errorf("no such process: got %v", f)
	}
}

// TestCongestion proves that both ends of a connection use the requested congestion control, and
// that an unknown one is an error.
func TestCongestion(t *testing.T) {
	for code, cc := range congestions {
		if got, err := congestionOf(byte(code)); got != cc || err != nil || cc.code() != byte(code) {
			t.Errorf("%s has code %d, which means %s, %v", cc, cc.code(), got, err)
		}
	}
	if got, err := congestionOf(Congestion("nonsense").code()); err == nil {
		t.Errorf("unknown congestion control: got %s", got)
	}
	target := newTarget(t)
	p := Proxy{Kind: Direct, Congestion: "nonsense"}
	if _, err := Measure(t.Context(), Spec{Kind: RoundTrips, Proxy: p, Target: target}); err == nil {
		t.Error("want an error")
	}
	p.Congestion = CUBIC
	ends := make(chan net.Conn, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, _ := ln.Accept()
		ends <- c
	}()
	near, err := p.open(t.Context(), netip.MustParseAddrPort(ln.Addr().String()), wantEcho, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far := <-ends
	defer far.Close()
	head := make([]byte, requestSize)
	if _, err := io.ReadFull(far, head); err != nil {
		t.Fatal(err)
	}
	if cc, err := congestionOf(head[1]); cc != CUBIC || err != nil || cc.apply(far) != nil {
		t.Errorf("the request names %s, %v", cc, err)
	}
	for _, c := range []net.Conn{near, far} {
		if got := congestion(t, c); got != CUBIC {
			t.Errorf("one end uses %s", got)
		}
	}
}

// TestForward proves that a forwarder passes data and the end of each direction on.
func TestForward(t *testing.T) {
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() { // answers with the reverse of all it has received
		c, err := far.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		slices.Reverse(b)
		c.Write(b)
	}()
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	donec := make(chan error)
	listen := freeAddr(t)
	go func() { donec <- Forward(ctx, listen, far.Addr().String(), "ready", in) }()
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "abc")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); !bytes.Equal(got, []byte("cba")) || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	stop()
	if err := <-donec; err != nil {
		t.Errorf("Forward returned %v", err)
	}
}

// freeAddr returns an address on which no socket listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
