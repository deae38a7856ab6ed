//go:build lab

package lab

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ginnel/node"
)

// randomBytes returns n random bytes.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// sendOnEach opens n connections, eight at a time, and sends payload(i) on the i-th.
func sendOnEach(n int, dial func() (net.Conn, error), payload func(i int) []byte) {
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				c, err := dial()
				if err != nil {
					continue
				}
				c.SetDeadline(time.Now().Add(time.Second))
				c.Write(payload(i))
				c.(interface{ CloseWrite() error }).CloseWrite()
				io.Copy(io.Discard, io.LimitReader(c, 1<<20))
				c.Close()
			}
		})
	}
	wg.Wait()
}

// The proxy answers garbage or closes the connection, whether it looks like one of the proxy's
// protocols or not. A well-behaved client and a transfer are not disturbed, and no connection is
// left.
func TestGarbageAtTheProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	b := s.startInnerBulk()
	good := s.client.startFetchLoop(innerAddr4)
	starts := append(partialRequests, "\x05\xff", "\x05\x01\x00\x05\x03\x00\x01", "GET / HTTP/1.1\r\n",
		"POST http://10.88.0.2/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
		"CONNECT : HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01",
		"GET http://[::1 HTTP/1.1\r\n\r\n")
	sendOnEach(600, func() (net.Conn, error) { return s.client.dial("tcp", defaultProxy) }, func(i int) []byte {
		return append([]byte(starts[i%len(starts)]), randomBytes(rand.IntN(2000))...)
	})
	b.flows("after garbage", dialTimeout)
	good.stop(t, "garbage at the proxy")
	eventually(t, "no connection of the garbage is left", 15*time.Second,
		func() bool { return metric(t, s.client, "ginnel_proxy_connections_open") <= 2 })
	t.Logf("%v handshakes failed", metric(t, s.client, `ginnel_proxy_refused_total{reason="handshake"}`))
	b.finish()
	g.end()
}

// datagram makes garbage for the UDP port: random bytes, or random bytes behind the header of a
// WireGuard, disco, STUN or Geneve message.
func datagram(i int) []byte {
	b := randomBytes(rand.IntN(1400))
	sizes := map[uint32]int{1: 148, 2: 92, 3: 64, 4: 32 + 16*rand.IntN(80)}
	switch i % 8 {
	case 1, 2, 3, 4:
		kind := uint32(i % 8)
		b = randomBytes(sizes[kind])
		binary.LittleEndian.PutUint32(b, kind)
	case 5:
		b = append([]byte("TS\U0001f4ac"), b...)
	case 6:
		b = append([]byte{1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42}, b...)
	case 7:
		b = append([]byte{0, 0, 0x7a, 0x12, 0, 0, 1, 0}, b...)
	}
	return b
}

// Garbage at the UDP port is dropped. A transfer through the same port loses no data, and the
// node's memory does not grow.
func TestGarbageAtTheUDPPort(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{iface: []string{"ListenPort = 40000"}})
	b := s.startInnerBulk()
	b.settled()
	before := g.residentMB()
	var sent atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(4 * time.Second)
	for _, addr := range []string{clientAddr4 + ":40000", "[" + clientAddr6 + "]:40000"} {
		c, err := s.router.dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				c.Write(datagram(i))
				if sent.Add(1); i%20 == 19 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	for time.Now().Before(end) {
		b.flows("under garbage", dialTimeout)
	}
	wg.Wait()
	t.Logf("%d datagrams of garbage: longest silence of the transfer %v, %d MB before and %d MB after, "+
		"%v dropped as unknown disco",
		sent.Load(), b.longestSilence(), before, g.residentMB(),
		metric(t, s.client, `ginnel_transport_dropped_total{reason="disco_unknown"}`))
	if mb := g.residentMB(); mb > before+100 {
		t.Errorf("memory went from %d to %d MB", before, mb)
	}
	if err := s.client.fetch(innerAddr4); err != nil {
		t.Error(err)
	}
	b.finish()
	g.end()
}

// Garbage at the relay's ports, before TLS, inside TLS and as STUN, does not disturb a transfer
// between two nodes through that relay.
func TestGarbageAtTheRelay(t *testing.T) {
	t.Parallel()
	m := newMesh(t, hard, hard)
	b := m.alpha.bulk(meshRate)
	good := m.alpha.host.startFetchLoop("beta")
	addr := net.JoinHostPort(m.relay.node.HostName, strconv.Itoa(m.relay.node.DERPPort))
	plain := func() (net.Conn, error) { return m.internet.dial("tcp", addr) }
	sendOnEach(400, plain, func(int) []byte { return randomBytes(rand.IntN(2000)) })
	encrypted := func() (net.Conn, error) {
		c, err := plain()
		if err != nil {
			return nil, err
		}
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true}), nil
	}
	const upgrade = "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
	starts := []string{"", "GET /", "GET /derp HTTP/1.1\r\nHost: x\r\n\r\n", upgrade,
		strings.Replace(upgrade, "\r\n\r\n", "\r\nDerp-Fast-Start: 1\r\n\r\n", 1), upgrade + "\x02\xff\xff\xff\xff"}
	sendOnEach(400, encrypted, func(i int) []byte {
		return append([]byte(starts[i%len(starts)]), randomBytes(rand.IntN(2000))...)
	})
	stun, err := m.internet.dial("udp", net.JoinHostPort(m.relay.node.HostName, strconv.Itoa(m.relay.node.STUNPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer stun.Close()
	for i := range 5000 {
		if stun.Write(datagram(i)); i%50 == 49 {
			time.Sleep(time.Millisecond)
		}
	}
	b.flows("after garbage at the relay", dialTimeout)
	t.Logf("longest silence of the transfer %v, the relay has %d MB", b.longestSilence(), m.relay.residentMB())
	good.stop(t, "garbage at the relay")
	if p := m.alpha.path(); p != node.PathRelay {
		t.Errorf("the path of the nodes is %q, so the test proves nothing", p)
	}
	b.finish()
	m.endRelay()
}
