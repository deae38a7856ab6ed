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

// What members say to each other: a TCP connection on which the other side sends everything back,
// and UDP probes one way that measure for how long nothing passes.

// echoPort is where members answer.
const echoPort = 7

// serveEcho answers TCP and UDP on echoPort of m until the test ends or m is closed.
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
		m.close() // so that no connection is left
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

// talk is a TCP connection with random bytes at a steady rate, all of which come back.
type talk struct {
	tb   testing.TB
	conn net.Conn

	stop    atomic.Bool
	back    atomic.Int64 // bytes
	out, in [sha256.Size]byte
	sent    int64
	errs    [2]error
	wg      sync.WaitGroup
}

const (
	talkChunk = 32 << 10
	talkEvery = 20 * time.Millisecond // about 1.6 MB/s each way
)

// startTalk dials from a to b, who echoes.
func startTalk(tb testing.TB, a, b member) *talk {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	conn, err := a.dialTCP(ctx, netip.AddrPortFrom(b.address(), echoPort))
	if err != nil {
		tb.Fatalf("%v dials %v: %v", a.address(), b.address(), err)
	}
	k := &talk{tb: tb, conn: conn}
	k.wg.Go(k.write)
	k.wg.Go(k.read)
	tb.Cleanup(func() {
		conn.Close()
		k.stop.Store(true)
		k.wg.Wait()
	})
	return k
}

func (k *talk) write() {
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

func (k *talk) read() {
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

// more waits until n more bytes have come back.
func (k *talk) more(limit time.Duration, n int64) {
	k.tb.Helper()
	want := k.back.Load() + n
	eventuallyWithin(k.tb, limit, fmt.Sprintf("%d bytes more come back", n), func() bool { return k.back.Load() >= want })
}

// finish ends the connection and demands that all that was sent came back unchanged.
func (k *talk) finish() {
	k.tb.Helper()
	k.stop.Store(true)
	k.conn.SetReadDeadline(time.Now().Add(patience))
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

// probes are UDP datagrams one way, ten each second. They measure for how long nothing arrives.
type probes struct {
	stopc chan struct{}
	wg    sync.WaitGroup

	mu   sync.Mutex
	seen int
	last time.Time     // arrival
	gap  time.Duration // the longest time between two
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

// reset forgets the gaps so far.
func (p *probes) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap = 0
}

// longest returns the longest time without a probe since reset, the present one included.
func (p *probes) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.gap, time.Since(p.last))
}
