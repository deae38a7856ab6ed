package interop

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The traffic between members: a TCP connection whose other side echoes everything, and UDP probes
// in one direction, which measure how long nothing arrives.

// echoPort is the port of the echo service, over TCP and UDP.
const echoPort = 7

// serveEcho serves echo over TCP and UDP on m until the test ends or m is closed.
func serveEcho(tb testing.TB, m member) {
	tb.Helper()
	ln, err := m.listenTCP(echoPort)
	if err != nil {
		tb.Fatal(err)
	}
	pc, err := m.listenUDP(echoPort)
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { echoStreams(ln, &wg) })
	wg.Go(func() { echoDatagrams(pc) })
	tb.Cleanup(func() {
		ln.Close()
		pc.Close()
		m.close() // closes the remaining connections
		wg.Wait()
	})
}

func echoStreams(ln net.Listener, wg *sync.WaitGroup) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			if _, err := io.Copy(c, c); err == nil {
				c.(interface{ CloseWrite() error }).CloseWrite()
				io.Copy(io.Discard, c)
			}
		})
	}
}

func echoDatagrams(pc net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		pc.WriteTo(buf[:n], from)
	}
}

// echoStream is a TCP connection that sends random bytes at a steady rate, all of which must come
// back.
type echoStream struct {
	tb   testing.TB
	conn net.Conn

	stop    atomic.Bool
	back    atomic.Int64 // bytes that have come back
	out, in [sha256.Size]byte
	sent    int64
	errs    [2]error
	wg      sync.WaitGroup
}

const (
	talkChunk = 32 << 10
	talkEvery = 20 * time.Millisecond // about 1.6 MB/s each way
)

// startEchoStream starts a stream from a to the echo service of b.
func startEchoStream(tb testing.TB, a, b member) *echoStream {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), waitLimit)
	defer cancel()
	conn, err := a.dialTCP(ctx, netip.AddrPortFrom(b.address(), echoPort))
	if err != nil {
		tb.Fatalf("%v dials %v: %v", a.address(), b.address(), err)
	}
	k := &echoStream{tb: tb, conn: conn}
	k.wg.Go(k.write)
	k.wg.Go(k.read)
	tb.Cleanup(func() {
		conn.Close()
		k.stop.Store(true)
		k.wg.Wait()
	})
	return k
}

func (k *echoStream) write() {
	var seed [32]byte
	binary.NativeEndian.PutUint64(seed[:], uint64(time.Now().UnixNano()))
	random, h := rand.NewChaCha8(seed), sha256.New()
	tick := time.NewTicker(talkEvery)
	defer tick.Stop()
	buf := make([]byte, talkChunk)
	for !k.stop.Load() {
		random.Read(buf)
		h.Write(buf)
		n, err := k.conn.Write(buf)
		k.sent += int64(n)
		if err != nil {
			k.errs[0] = err
			return
		}
		<-tick.C
	}
	k.errs[0] = k.conn.(interface{ CloseWrite() error }).CloseWrite()
	h.Sum(k.out[:0])
}

func (k *echoStream) read() {
	h := sha256.New()
	buf := make([]byte, talkChunk)
	for {
		n, err := k.conn.Read(buf)
		h.Write(buf[:n])
		k.back.Add(int64(n))
		if err == io.EOF {
			break
		}
		if err != nil {
			k.errs[1] = err
			break
		}
	}
	h.Sum(k.in[:0])
}

// awaitBytes waits until n more bytes have come back.
func (k *echoStream) awaitBytes(limit time.Duration, n int64) {
	k.tb.Helper()
	want := k.back.Load() + n
	eventuallyWithin(k.tb, limit, fmt.Sprintf("%d bytes more come back", n), func() bool { return k.back.Load() >= want })
}

// finish ends the stream and checks that everything came back unchanged.
func (k *echoStream) finish() {
	k.tb.Helper()
	k.stop.Store(true)
	k.conn.SetReadDeadline(time.Now().Add(waitLimit))
	k.wg.Wait()
	k.conn.Close()
	if k.errs[0] != nil || k.errs[1] != nil {
		k.tb.Fatalf("the connection broke after %d bytes: writing: %v, reading: %v", k.back.Load(), k.errs[0], k.errs[1])
	}
	if k.back.Load() != k.sent || k.in != k.out {
		k.tb.Fatalf("%d of %d bytes came back, hashes equal: %v", k.back.Load(), k.sent, k.in == k.out)
	}
	k.tb.Logf("%d bytes came back unchanged", k.sent)
}

// probes are UDP datagrams in one direction, ten a second, which measure how long nothing arrives.
type probes struct {
	stopc chan struct{}
	wg    sync.WaitGroup

	mu   sync.Mutex
	seen int
	last time.Time     // of the last arrival
	gap  time.Duration // the longest time between two arrivals
}

const (
	probePort  = 9
	probeEvery = 100 * time.Millisecond
)

// startProbes sends probes from a to b until the test ends, and waits until some have arrived.
func startProbes(tb testing.TB, a, b member) *probes {
	tb.Helper()
	in, err := b.listenUDP(probePort)
	if err != nil {
		tb.Fatal(err)
	}
	out, err := a.dialUDP(tb.Context(), netip.AddrPortFrom(b.address(), probePort))
	if err != nil {
		in.Close()
		tb.Fatal(err)
	}
	p := &probes{stopc: make(chan struct{}), last: time.Now()}
	p.wg.Go(func() { p.send(out) })
	p.wg.Go(func() { p.receive(in) })
	tb.Cleanup(func() {
		close(p.stopc)
		out.Close()
		in.Close()
		p.wg.Wait()
	})
	eventually(tb, "probes arrive", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.seen >= 3
	})
	return p
}

func (p *probes) send(out net.Conn) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		out.Write([]byte("probe"))
		select {
		case <-tick.C:
		case <-p.stopc:
			return
		}
	}
}

func (p *probes) receive(in net.PacketConn) {
	buf := make([]byte, 64)
	for {
		if _, _, err := in.ReadFrom(buf); err != nil {
			return
		}
		p.mu.Lock()
		now := time.Now()
		p.seen++
		p.gap = max(p.gap, now.Sub(p.last))
		p.last = now
		p.mu.Unlock()
	}
}

// reset clears the longest gap.
func (p *probes) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap = 0
}

// longest returns the longest gap since reset, including the current one.
func (p *probes) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.gap, time.Since(p.last))
}
