package interop

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/net/packet"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"

	"ginnel/node"
	relayserver "ginnel/relay/server"
)

// TestDatagrams proves that datagrams of all sizes pass between our stack and theirs in both
// directions. Some are fragmented, because the MTU of their tunnel is smaller than ours.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.our)
	serveEcho(t, p.their)
	for _, way := range [][2]member{{p.our, p.their}, {p.their, p.our}} {
		c, err := way[0].dialUDP(t.Context(), netip.AddrPortFrom(way[1].address(), echoPort))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, size := range []int{1, 1000, 1252, 1253, 1372, 1392, 1393, 2000} {
			if err := askEcho(c, bytes.Repeat([]byte{byte(size)}, size)); err != nil {
				t.Errorf("%v to %v, %d bytes: %v", way[0].address(), way[1].address(), size, err)
			}
		}
	}
}

// askEcho sends a datagram repeatedly until it comes back.
func askEcho(c net.Conn, b []byte) error {
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(waitLimit); ; {
		if _, err := c.Write(b); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if err == nil && bytes.Equal(buf[:n], b) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("datagram did not come back: %w", err)
		}
	}
}

// TestAnnouncement proves that our node does not answer the disco key announcement, which their
// nodes send inside the tunnel as its own IP protocol.
func TestAnnouncement(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.our)
	back := make(chan packet.Parsed, 1<<10)
	p.their.eng.InstallCaptureHook(func(path packet.CapturePath, _ time.Time, b []byte, _ packet.CaptureMeta) {
		var q packet.Parsed
		if q.Decode(b); path == packet.FromPeer {
			select {
			case back <- q:
			default:
			}
		}
	})
	k := startEchoStream(t, p.their, p.our)
	p.their.eng.Ping(p.our.addr, tailcfg.PingTSMP, 0, func(*ipnstate.PingResult) {})
	k.awaitBytes(waitLimit, 1<<16)
	k.finish()
	for len(back) > 0 {
		if q := <-back; q.IPProto != ipproto.TCP {
			t.Errorf("our node answered with %v", q.String())
		}
	}
}
