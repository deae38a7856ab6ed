//go:build linux && !ginnel_stdnet

package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/sys"
)

// newLanes makes a Conn on addr. Before Open nothing reads its sockets.
func newLanes(t *testing.T, lanes int, addr string, change ...func(*Config)) *Conn {
	t.Helper()
	cfg := Config{Addr: netip.MustParseAddr(addr), Lanes: lanes,
		LocalAddrs: func() ([]netip.Addr, error) { return nil, nil }}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dataMessage has a receiver index, and is long enough for WireGuard.
func dataMessage(index uint32) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, dataHeader), wireGuardData)
	return binary.LittleEndian.AppendUint32(b, index)[:dataHeader]
}

// client is a socket of somebody else's.
func client(t *testing.T, to *Conn) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, to.sockets()[0].c.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// read returns the next datagrams that a socket has, as many as that, in order.
func read(t *testing.T, s *socket, n int) (got [][]byte) {
	t.Helper()
	if err := s.c.(*net.UDPConn).SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for batch := sys.NewBatch(1); len(got) < n; {
		if err := s.Receive(batch); err != nil {
			t.Fatalf("after %d datagrams of %d: %v", len(got), n, err)
		}
		row, _, _ := batch.Next(nil)
		for _, b := range row {
			got = append(got, slices.Clone(b))
		}
	}
	return got
}

// "A WireGuard data message is delivered to the socket whose number is the receiver index modulo
// the number of sockets", wherever it comes from.
func TestLanesByReceiverIndex(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for _, lanes := range []int{1, 2, 4, 8} {
			c := newLanes(t, lanes, addr)
			if n := len(c.sockets()); n != lanes || c.Lanes() != lanes {
				t.Fatalf("%s: %d sockets and %d lanes, want %d", addr, n, c.Lanes(), lanes)
			}
			from := []*net.UDPConn{client(t, c), client(t, c), client(t, c)}
			for i := range 8 * len(from) {
				// The upper bytes must not matter.
				if _, err := from[i%len(from)].Write(dataMessage(uint32(i/len(from)) | 0xa5b60300)); err != nil {
					t.Fatal(err)
				}
			}
			for lane, s := range c.sockets() {
				if s.port() != c.LocalPort() {
					t.Errorf("%s: lane %d has port %d, want %d", addr, lane, s.port(), c.LocalPort())
				}
				for _, b := range read(t, s, 8*len(from)/lanes) {
					if index := binary.LittleEndian.Uint32(b[4:]); int(index)%lanes != lane {
						t.Errorf("%s: index %#x came to lane %d of %d", addr, index, lane, lanes)
					}
				}
			}
		}
	}
}

// "Everything else goes to socket 0", be it shorter than a type or a receiver index.
func TestLanesOfOtherDatagrams(t *testing.T) {
	c := newLanes(t, 4, "127.0.0.1")
	from := client(t, c)
	sent := [][]byte{
		{}, {4}, {4, 0, 0}, {4, 0, 0, 0}, // too short to have an index
		append([]byte{wireGuardInitiation, 0, 0, 0, 3}, make([]byte, initiationLen-5)...),
		append([]byte{wireGuardResponse, 0, 0, 0, 3}, make([]byte, responseLen-5)...),
		append([]byte{wireGuardData, 1, 0, 0, 3}, make([]byte, 32)...), // reserved bytes are zero in data messages
		bindingRequest(stunTxID{1, 2, 3}),
		[]byte("TS\U0001f4acdisco"),
	}
	for _, b := range sent {
		if _, err := from.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range read(t, c.sockets()[0], len(sent)) {
		if !bytes.Equal(b, sent[i]) {
			t.Errorf("datagram %d is %x, want %x", i, b, sent[i])
		}
	}
}

// Messages that the kernel carries as one (UDP_SEGMENT, UDP_GRO) arrive together, in the lane of
// their receiver index.
func TestLanesOfRows(t *testing.T) {
	a, b := newLanes(t, 4, "127.0.0.1"), newLanes(t, 4, "127.0.0.1")
	to := &address{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.LocalPort())}
	for lane := range 4 {
		row := make([][]byte, 40)
		for i := range row {
			row[i] = append(dataMessage(uint32(4+lane)), byte(i))
		}
		if err := a.Send(3-lane, row, to); err != nil { // whichever socket it leaves by
			t.Fatal(err)
		}
		for i, got := range read(t, b.sockets()[lane], len(row)) {
			if !bytes.Equal(got, row[i]) {
				t.Fatalf("lane %d: message %d is %x, want %x", lane, i, got, row[i])
			}
		}
	}
}

// Every lane sends from the same port, and answers come back.
func TestLanesSendFromOnePort(t *testing.T) {
	c := newLanes(t, 4, "127.0.0.1")
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	to := &address{peer.LocalAddr().(*net.UDPAddr).AddrPort()}
	for lane := range 9 { // one more than there can be sockets: there may be more queues than lanes
		if err := c.Send(lane, [][]byte{{byte(lane)}}, to); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if _, from, err := peer.ReadFromUDPAddrPort(b); err != nil || from.Port() != c.LocalPort() || int(b[0]) != lane {
			t.Errorf("lane %d: %d from %v, %v, want it from port %d", lane, b[0], from, err, c.LocalPort())
		}
	}
}

// A port that another node of the same user has is an error and not shared, whether the other has
// one socket or several.
func TestLanesDoNotJoinOthers(t *testing.T) {
	for _, others := range []int{1, 4} {
		other := newLanes(t, others, "127.0.0.1")
		for _, lanes := range []int{1, 4} {
			c, err := New(Config{Addr: netip.MustParseAddr("127.0.0.1"), Port: other.LocalPort(), Lanes: lanes})
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%d lanes on the port of %d: %v, want EADDRINUSE", lanes, others, err)
			}
		}
	}
}

// A fixed port is taken in both families, and again as soon as it is free.
func TestLanesOnFixedPort(t *testing.T) {
	first := newLanes(t, 2, "127.0.0.1")
	port := first.LocalPort()
	first.Close()
	for range 3 {
		c, err := New(Config{Port: port, Lanes: 2, LocalAddrs: func() ([]netip.Addr, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if c.LocalPort() != port || len(c.sock4) != 2 || len(c.sock6) != 0 && (len(c.sock6) != 2 || c.sock6.port() != port) {
			t.Errorf("port %d with %d and %d sockets, want %d with two", c.LocalPort(), len(c.sock4), len(c.sock6), port)
		}
		c.Close()
	}
}

// leaveFiles lets the process open n more files at the most, until the test ends.
func leaveFiles(t *testing.T, n int) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	names, err := dir.Readdirnames(-1)
	names = slices.DeleteFunc(names, func(name string) bool { return name == strconv.Itoa(int(dir.Fd())) })
	dir.Close()
	if err != nil {
		t.Fatal(err)
	}
	limit := 0
	for free := 0; free < n; limit++ {
		if !slices.Contains(names, strconv.Itoa(limit)) {
			free++
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(limit), Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
}

// If further sockets cannot be opened, the first one receives everything, nobody can join its port,
// and the log says so.
func TestLanesFallBackToOne(t *testing.T) {
	// Any socket sets up what Go's network poller needs.
	newLanes(t, 1, "127.0.0.1")
	for spare := 1; spare <= 3; spare++ {
		t.Run(fmt.Sprint(spare, " files"), func(t *testing.T) {
			var log bytes.Buffer
			leaveFiles(t, spare)
			c := newLanes(t, 4, "127.0.0.1", func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			if len(c.sockets()) != 1 || c.Lanes() != 1 {
				t.Fatalf("%d sockets, %d lanes", len(c.sockets()), c.Lanes())
			}
			if !strings.Contains(log.String(), "one UDP socket receives for all peers") {
				t.Errorf("logged %q", log.String())
			}
			wantAlone(t, c)
		})
	}
}

// wantAlone checks that a Conn with one socket receives everything, and that nobody else can have
// its port.
func wantAlone(t *testing.T, c *Conn) {
	t.Helper()
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max})
	textc := make(chan string, 8)
	if err := c.Open(func(messages [][]byte, _ conn.Endpoint) {
		for _, b := range messages {
			textc <- string(b[dataHeader:])
		}
	}); err != nil {
		t.Fatal(err)
	}
	from := client(t, c)
	for i := range 8 {
		from.Write(append(dataMessage(uint32(i)), byte('0'+i)))
	}
	for i := range 8 {
		if text := <-textc; text != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, text)
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return err
	}}
	if pc, err := lc.ListenPacket(t.Context(), "udp4", fmt.Sprint("127.0.0.1:", c.LocalPort())); err == nil {
		pc.Close()
		t.Error("another socket could join the port")
	}
}

// Sockets that the caller opens are not multiplied.
func TestLanesWithListen(t *testing.T) {
	c := newLanes(t, 4, "127.0.0.1", func(c *Config) {
		c.Listen = func(network string, addr netip.AddrPort) (PacketConn, error) {
			return net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
		}
	})
	if len(c.sockets()) != 1 || c.Lanes() != 1 {
		t.Errorf("%d sockets, %d lanes", len(c.sockets()), c.Lanes())
	}
}

func TestLanesInvalid(t *testing.T) {
	for _, n := range []int{-1, 3, 5, 6, 7, 9, 16} {
		if c, err := New(Config{Lanes: n, Addr: netip.MustParseAddr("127.0.0.1")}); err == nil {
			c.Close()
			t.Errorf("%d lanes are allowed", n)
		}
	}
}
