//go:build lab

package lab

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A bulk transfer runs in both directions of one connection at the same time, for as long as a test
// wants. The client opens it with a seed and a rate, 8 bytes each, and sends a stream made from the
// seed. The server sends frames: their length, how many bytes it has received so far, and a piece
// of another stream from the same seed. When the client closes its side, the server answers with a
// frame of length 0 and the SHA-256 of everything it received. So the client always knows how much
// has arrived end to end, and in the end that no byte was lost, duplicated or changed in either
// direction.

const (
	bulkPort  = "5001"
	bulkChunk = 8 << 10
	bulkHead  = 2 + 8 // header of a frame: length and bytes received
)

// stream returns the pseudorandom bytes of one direction, which both sides can generate.
func stream(seed uint64, direction byte) *rand.ChaCha8 {
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], seed)
	s[31] = direction
	return rand.NewChaCha8(s)
}

// pacer spaces the chunks of one direction evenly. It does not catch up after a delay.
type pacer struct {
	interval time.Duration
	next     time.Time
}

func newPacer(rate uint64) *pacer {
	return &pacer{interval: time.Duration(bulkChunk * uint64(time.Second) / max(rate, 1))}
}

func (p *pacer) wait() {
	now := time.Now()
	if p.next.Before(now.Add(-10 * time.Millisecond)) {
		p.next = now
	}
	time.Sleep(p.next.Sub(now))
	p.next = p.next.Add(p.interval)
}

// serveBulk is the server side of one transfer.
func serveBulk(c net.Conn) {
	defer c.Close()
	var head [16]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	seed, rate := binary.BigEndian.Uint64(head[:8]), binary.BigEndian.Uint64(head[8:])
	var received atomic.Uint64
	sum := make(chan []byte, 1)
	go func() {
		h := sha256.New()
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			h.Write(buf[:n])
			received.Add(uint64(n))
			if err != nil {
				sum <- h.Sum(nil)
				return
			}
		}
	}()
	sendFrames(c, stream(seed, 'd'), newPacer(rate), &received, sum)
}

func sendFrames(c net.Conn, down *rand.ChaCha8, pace *pacer, received *atomic.Uint64, sum <-chan []byte) {
	frame := make([]byte, bulkHead+bulkChunk)
	for {
		select {
		case s := <-sum:
			end := binary.BigEndian.AppendUint64([]byte{0, 0}, received.Load())
			c.Write(append(end, s...))
			return
		default:
		}
		pace.wait()
		binary.BigEndian.PutUint16(frame, bulkChunk)
		binary.BigEndian.PutUint64(frame[2:], received.Load())
		down.Read(frame[bulkHead:])
		if _, err := c.Write(frame); err != nil {
			return
		}
	}
}

// bulk is the client side of a transfer that runs in the background of a test.
type bulk struct {
	t        *testing.T
	conn     net.Conn
	up, down atomic.Int64 // bytes received by the server, and by us
	silence  atomic.Int64 // the longest time without a frame, in nanoseconds
	stopc    chan struct{}
	sent     chan hash.Hash // receives the hash of what was sent, when sending has ended
	done     chan error
	total    int64 // bytes sent; may be read after receiving from sent
}

// startBulk starts a transfer on a connection to a bulk server, with rate bytes a second in each
// direction.
func startBulk(t *testing.T, conn net.Conn, rate uint64) *bulk {
	t.Helper()
	b := &bulk{t: t, conn: conn, stopc: make(chan struct{}), sent: make(chan hash.Hash, 1), done: make(chan error, 1)}
	seed := rand.Uint64()
	head := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seed), rate)
	if _, err := conn.Write(head); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go b.send(stream(seed, 'u'), newPacer(rate))
	go func() { b.done <- b.receive(stream(seed, 'd')) }()
	return b
}

func (b *bulk) send(up *rand.ChaCha8, pace *pacer) {
	h := sha256.New()
	defer func() { b.sent <- h }()
	chunk := make([]byte, bulkChunk)
	for {
		select {
		case <-b.stopc:
			b.conn.(interface{ CloseWrite() error }).CloseWrite()
			return
		default:
		}
		pace.wait()
		up.Read(chunk)
		h.Write(chunk)
		n, err := b.conn.Write(chunk)
		b.total += int64(n)
		if err != nil {
			return // receive reports the cause
		}
	}
}

func (b *bulk) receive(down *rand.ChaCha8) error {
	r := bufio.NewReaderSize(b.conn, 64<<10)
	got, want := make([]byte, bulkChunk), make([]byte, bulkChunk)
	last := time.Now()
	for {
		var head [bulkHead]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("after %d bytes: %w", b.down.Load(), err)
		}
		b.silence.Store(max(b.silence.Load(), int64(time.Since(last))))
		last = time.Now()
		size, received := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint64(head[2:])
		b.up.Store(int64(received))
		if size == 0 {
			return b.compare(r)
		}
		if size != bulkChunk {
			return fmt.Errorf("after %d bytes: frame of %d bytes, want %d", b.down.Load(), size, bulkChunk)
		}
		if _, err := io.ReadFull(r, got); err != nil {
			return fmt.Errorf("after %d bytes: %w", b.down.Load(), err)
		}
		down.Read(want)
		if !bytes.Equal(got, want) {
			return fmt.Errorf("after %d bytes: what was received is not what was sent", b.down.Load())
		}
		b.down.Add(bulkChunk)
	}
}

// compare reads the server's final hash and compares it with that of the bytes sent.
func (b *bulk) compare(r io.Reader) error {
	rest, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("reading the sum: %w", err)
	}
	h := <-b.sent
	if b.up.Load() != b.total {
		return fmt.Errorf("server received %d bytes of %d", b.up.Load(), b.total)
	}
	if !bytes.Equal(rest, h.Sum(nil)) {
		return errors.New("what the server received is not what was sent")
	}
	return nil
}

// flows waits until the transfer has made progress in both directions and returns how long that
// took.
func (b *bulk) flows(what string, limit time.Duration) time.Duration {
	b.t.Helper()
	const piece = 4 * bulkChunk
	start := time.Now()
	up, down := b.up.Load()+piece, b.down.Load()+piece
	for b.up.Load() < up || b.down.Load() < down {
		select {
		case err := <-b.done:
			b.t.Fatalf("%s: the transfer broke off after %v: %v", what, time.Since(start).Round(time.Millisecond), err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(start) > limit {
			b.t.Fatalf("%s: no progress for %v (%d bytes up, %d down)", what, limit, b.up.Load(), b.down.Load())
		}
	}
	return time.Since(start)
}

// longestSilence returns the longest time without a frame since it was last called.
func (b *bulk) longestSilence() time.Duration {
	return time.Duration(b.silence.Swap(0)).Round(time.Millisecond)
}

// finish ends the transfer and checks that every byte arrived unchanged.
func (b *bulk) finish() {
	b.t.Helper()
	close(b.stopc)
	select {
	case err := <-b.done:
		if err != nil {
			b.t.Errorf("bulk transfer: %v", err)
			return
		}
		b.t.Logf("bulk transfer: %.1f MB up and %.1f MB down on one connection, all bytes verified",
			float64(b.up.Load())/1e6, float64(b.down.Load())/1e6)
	case <-time.After(60 * time.Second):
		b.t.Errorf("bulk transfer did not end (%d bytes up, %d down)", b.up.Load(), b.down.Load())
	}
}
