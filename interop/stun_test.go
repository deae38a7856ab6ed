package interop

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/net/stun/stuntest"
	"tailscale.com/tstest"

	"ginnel/key"
	relayserver "ginnel/relay/server"
	"ginnel/transport"
)

// loopbacks are the addresses of a server on loopback in both families.
var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// askSTUN sends a request from their codec and returns the address that their parser finds in the
// answer.
func askSTUN(t *testing.T, c *net.UDPConn, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	id := stun.NewTxID()
	if _, err := c.WriteToUDPAddrPort(stun.Request(id), server); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	c.SetReadDeadline(time.Now().Add(waitLimit))
	n, _, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	got, mapped, err := stun.ParseResponse(buf[:n])
	if err != nil || got != id {
		t.Fatalf("answer %x: transaction %x, want %x: %v", buf[:n], got, id, err)
	}
	return mapped
}

// TestSTUNServer proves that their codec gets the client's address from our STUN service as from
// theirs, over IPv4 and IPv6 on one socket.
func TestSTUNServer(t *testing.T) {
	for _, m := range relayKinds {
		t.Run(m.name, func(t *testing.T) {
			h := m.start(t, relayserver.Config{})
			m.stun(t, h)
			for _, ip := range loopbacks {
				c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				want := c.LocalAddr().(*net.UDPAddr).AddrPort()
				if got := askSTUN(t, c, netip.AddrPortFrom(ip, uint16(h.stun))); got != want {
					t.Errorf("over %v: mapped to %v, want %v", ip, got, want)
				}
			}
		})
	}
}

// TestSTUNRefusals proves that our STUN service answers exactly the requests that their parser
// accepts. Thousands of requests are damaged at random, with and without a corrected fingerprint.
func TestSTUNRefusals(t *testing.T) {
	h := startOurRelay(t, relayserver.Config{})
	serveOurSTUN(t, h)
	server := netip.AddrPortFrom(loopbacks[0], uint16(h.stun))
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 100 {
		sent := make(map[stun.TxID][]byte) // accepted by their parser, by transaction ID
		refused := make(map[stun.TxID][]byte)
		for range 40 { // no more than a socket buffer holds
			b := damage(r, stun.Request(stun.NewTxID()))
			if id, err := stun.ParseBindingRequest(b); err == nil && stun.Is(b) {
				sent[id] = b
			} else if len(b) >= 20 {
				refused[stun.TxID(b[8:20])] = b
			}
			c.Write(b)
		}
		taken += len(sent)
		for id := range answersUntilFence(t, c) {
			if b, ok := refused[id]; ok {
				t.Errorf("answered a request that their parser refuses: %x", b)
			}
			delete(sent, id)
		}
		for _, b := range sent {
			t.Errorf("did not answer a request that their parser accepts: %x", b)
		}
	}
	if taken < 100 {
		t.Errorf("only %d requests were valid, so the test proves little", taken)
	}
}

// answersUntilFence sends one more valid request, and returns the transactions that are answered up
// to that one.
func answersUntilFence(t *testing.T, c *net.UDPConn) map[stun.TxID]bool {
	t.Helper()
	fence := stun.NewTxID()
	c.Write(stun.Request(fence))
	got := make(map[stun.TxID]bool)
	buf := make([]byte, 1500)
	for !got[fence] {
		c.SetReadDeadline(time.Now().Add(waitLimit))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		id, _, err := stun.ParseResponse(buf[:n])
		if err != nil {
			t.Fatalf("answer %x: %v", buf[:n], err)
		}
		got[id] = true
	}
	return got
}

// damage changes a request in a way that may matter to a parser.
func damage(r *rand.Rand, b []byte) []byte {
	switch r.IntN(7) {
	case 0: // as it is
		return b
	case 1: // another attribute in front, which is valid
		extra := make([]byte, 4+4*r.IntN(3))
		binary.BigEndian.PutUint16(extra, uint16(0x8000+r.IntN(0x7000)))
		binary.BigEndian.PutUint16(extra[2:], uint16(len(extra)-4))
		b = slices.Insert(b, 20, extra...)
		return fingerprint(setLength(b))
	case 2: // truncated
		return b[:r.IntN(len(b))]
	case 3: // one bit flipped
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	case 4: // one bit flipped, with a correct fingerprint
		b[r.IntN(len(b)-8)] ^= 1 << r.IntN(8)
		return fingerprint(b)
	case 5: // trailing bytes
		return append(b, make([]byte, 1+r.IntN(8))...)
	}
	// A wrong length with a correct fingerprint.
	binary.BigEndian.PutUint16(b[2:], uint16(r.IntN(64)))
	return fingerprint(b)
}

func setLength(b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
	return b
}

// fingerprint sets the FINGERPRINT attribute at the end of b.
func fingerprint(b []byte) []byte {
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.ChecksumIEEE(b[:len(b)-8])^0x5354554e)
	return b
}

// TestSTUNClient proves that our transport learns its address and a region's latency from their
// STUN servers: that of cmd/derper, which answers IPv4 clients with an IPv4-mapped IPv6 address,
// and that of their tests.
func TestSTUNClient(t *testing.T) {
	h := startTheirRelay(t, relayserver.Config{})
	serveTheirSTUN(t, h)
	test, stop := stuntest.Serve(t)
	t.Cleanup(stop)
	servers := []transport.STUNServer{
		{Region: 1, Addr: netip.AddrPortFrom(loopbacks[0], uint16(h.stun))},
		{Region: 2, Addr: netip.AddrPortFrom(loopbacks[1], uint16(h.stun))},
		{Region: 3, Addr: netip.AddrPortFrom(loopbacks[0], test.AddrPort().Port())},
	}
	c, err := transport.New(transport.Config{NodeKey: key.NewNodePrivate().Public(), Log: testLog(t, "our transport")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Open(func([][]byte, conn.Endpoint) {}); err != nil { // no WireGuard: only STUN is tested
		t.Fatal(err)
	}
	c.SetSTUN(servers)
	eventually(t, "all servers have answered", func() bool { return len(c.Status().Latency) == len(servers) })
	s := c.Status()
	if got := slices.Sorted(maps.Keys(s.Latency)); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("regions %v answered, want 1, 2 and 3", got)
	}
	if want := netip.AddrPortFrom(loopbacks[0], c.LocalPort()); s.Global4 != want || s.MappingVaries {
		t.Errorf("mapped to %v, varies %v, want %v, false", s.Global4, s.MappingVaries, want)
	}
	if s.Global6.Addr() != loopbacks[1] {
		t.Errorf("mapped to %v, want %v", s.Global6, loopbacks[1])
	}
}

// TestNetcheck proves that their network check measures our relay, by STUN with UDP and over HTTPS
// without, and chooses it as the home relay.
func TestNetcheck(t *testing.T) {
	for _, udp := range []bool{true, false} {
		name := map[bool]string{true: "STUN", false: "HTTPS"}[udp]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startOurRelay(t, relayserver.Config{})
			if udp {
				serveOurSTUN(t, h)
			}
			c := &netcheck.Client{Logf: tstest.WhileTestRunningLogger(t), NetMon: netmon.NewStatic(), SkipExternalNetwork: true}
			if err := c.Standalone(t.Context(), "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			r, err := c.GetReport(t.Context(), theirMap(t, h.derpMap(fastStart)), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.UDP != udp || r.PreferredDERP != 1 || r.RegionLatency[1] <= 0 {
				t.Errorf("UDP %v, home %d, latency %v, want %v, 1 and a latency", r.UDP, r.PreferredDERP, r.RegionLatency, udp)
			}
		})
	}
}
