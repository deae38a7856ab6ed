package control

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"ginnel/key"
)

// This file is the record layer of the channel (control specification, sections 2.3 and 2.5). The
// Noise library's own transport cannot be used: here nonces are big-endian, and a record has at
// most 4096 bytes.

const (
	recordSize    = 4096 // including the header
	maxCiphertext = recordSize - messageHeader
	maxPlaintext  = maxCiphertext - chacha20poly1305.Overhead
	// recordsAtOnce is how many full records one write to, or one read from, the underlying connection
	// carries at most.
	recordsAtOnce = 2
)

var (
	errNotRecord   = errors.New("message on the channel is not a record")
	errRecordSize  = errors.New("record on the channel has an impossible size")
	errForged      = errors.New("record on the channel does not decrypt")
	errNoNonceLeft = errors.New("channel has used up its nonces")
)

// recordBuffer holds the records of one read or write.
type recordBuffer [recordsAtOnce * recordSize]byte

// txBuffers pools send buffers. A Conn holds one only during a write, because most channels are
// idle most of the time.
var txBuffers = sync.Pool{New: func() any { return new(recordBuffer) }}

// Conn is an encrypted channel: a byte stream between a machine and a coordination server that have
// proved their keys to each other. Reading and writing are independent of each other. Each
// direction returns its first error for ever, except for a deadline that has passed.
type Conn struct {
	conn net.Conn
	s    session
	rx   rxState
	tx   txState
	// writeBy is the write deadline in Unix milliseconds; 0: none. It is also set on conn. Checking it
	// before sealing keeps a write after the deadline from using up a nonce.
	writeBy atomic.Int64
}

// newConn returns a channel on conn. first are bytes that were already read from it.
func newConn(conn net.Conn, s *session, first []byte) *Conn {
	c := &Conn{conn: conn, s: *s}
	c.s.tx, c.s.rx = [32]byte{}, [32]byte{}
	c.rx.init(s.rx, conn, first)
	c.tx.init(s.tx)
	return c
}

// Peer returns the key that the other end has proved to hold.
func (c *Conn) Peer() key.MachinePublic { return c.s.peer }

// Version returns the capability version of the client, which both ends use.
func (c *Conn) Version() int { return c.s.version }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.rx.read(p) }

// Write implements net.Conn. If a deadline interrupts it within a record, the record counts as
// written, and the next Write sends the rest of it first.
func (c *Conn) Write(p []byte) (int, error) {
	if by := c.writeBy.Load(); by != 0 && time.Now().UnixMilli() > by {
		return 0, os.ErrDeadlineExceeded
	}
	return c.tx.write(c.conn, p)
}

// Close closes the underlying connection. The rest of an interrupted record is lost.
func (c *Conn) Close() error { return c.conn.Close() }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.noteDeadline(t)
	return c.conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.noteDeadline(t)
	return c.conn.SetWriteDeadline(t)
}

func (c *Conn) noteDeadline(t time.Time) {
	if t.IsZero() {
		c.writeBy.Store(0)
		return
	}
	c.writeBy.Store(t.UnixMilli())
}

// cipherState is the key of one direction and the nonce of its next record, as in the Noise
// specification.
type cipherState struct {
	aead  cipher.AEAD
	next  uint64
	nonce [chacha20poly1305.NonceSize]byte
}

func (s *cipherState) init(k [32]byte) {
	s.aead, _ = chacha20poly1305.New(k[:]) // fails only for a key of another length
}

// advance sets the nonce of the next record.
func (s *cipherState) advance() error {
	if s.next == math.MaxUint64 {
		return errNoNonceLeft
	}
	binary.BigEndian.PutUint64(s.nonce[4:], s.next)
	s.next++
	return nil
}

// appendRecord appends a record with plaintext to b, which must have the capacity for it.
func (s *cipherState) appendRecord(b, plaintext []byte) ([]byte, error) {
	if err := s.advance(); err != nil {
		return b, err
	}
	b = append(b, typeRecord)
	b = binary.BigEndian.AppendUint16(b, uint16(len(plaintext)+chacha20poly1305.Overhead))
	return s.aead.Seal(b, s.nonce[:], plaintext, nil), nil
}

// open decrypts a ciphertext in place.
func (s *cipherState) open(ciphertext []byte) ([]byte, error) {
	if err := s.advance(); err != nil {
		return nil, err
	}
	plaintext, err := s.aead.Open(ciphertext[:0], s.nonce[:], ciphertext, nil)
	if err != nil {
		return nil, errForged
	}
	return plaintext, nil
}

// recordLength returns the length of the ciphertext that follows a record header.
func recordLength(header []byte) (int, error) {
	n := int(binary.BigEndian.Uint16(header[1:]))
	switch {
	case header[0] != typeRecord:
		return 0, errNotRecord
	case n > maxCiphertext || n < chacha20poly1305.Overhead:
		return 0, errRecordSize
	}
	return n, nil
}

// rxState is the reading direction. Read holds mu while it waits for the connection, so concurrent
// Reads take turns.
type rxState struct {
	mu    sync.Mutex
	src   io.Reader
	cs    cipherState
	plain []byte // decrypted and not yet read; a slice of buf
	from  int    // buf[from:to] is received and not yet decrypted
	to    int
	buf   recordBuffer
	early []byte // received during the handshake and not yet in buf
	err   error
}

func (rx *rxState) init(k [32]byte, src io.Reader, first []byte) {
	rx.cs.init(k)
	rx.src = src
	rx.early = append([]byte(nil), first...)
}

func (rx *rxState) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	rx.mu.Lock()
	defer rx.mu.Unlock()
	for len(rx.plain) == 0 {
		if rx.err != nil {
			return 0, rx.err
		}
		if err := rx.advance(); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				rx.err = err
			}
			return 0, err
		}
	}
	n := copy(p, rx.plain)
	rx.plain = rx.plain[n:]
	return n, nil
}

// advance decrypts the next record, or receives a part of it.
func (rx *rxState) advance() error {
	have := rx.buf[rx.from:rx.to]
	if len(have) < messageHeader {
		return rx.receive()
	}
	n, err := recordLength(have)
	if err != nil {
		return err
	}
	if len(have) < messageHeader+n {
		return rx.receive()
	}
	rx.plain, err = rx.cs.open(have[messageHeader : messageHeader+n])
	rx.from += messageHeader + n
	return err
}

// receive reads from the connection once. It is called only when plain is empty, because it moves
// the contents of buf.
func (rx *rxState) receive() error {
	rx.to = copy(rx.buf[:], rx.buf[rx.from:rx.to])
	rx.from = 0
	if len(rx.early) > 0 {
		n := copy(rx.buf[rx.to:], rx.early)
		rx.to += n
		rx.early = rx.early[n:]
		return nil
	}
	n, err := rx.src.Read(rx.buf[rx.to:])
	rx.to += n
	switch {
	case n > 0:
		return nil // the next call returns the error
	case err == io.EOF && rx.to > 0:
		return fmt.Errorf("reading a record: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return err
	}
	return nil
}

// txState is the writing direction. Write holds mu until everything is sent, because the bytes of
// two records must not mix. The write deadline bounds that time.
type txState struct {
	mu      sync.Mutex
	cs      cipherState
	pending []byte        // sealed and not yet sent; a slice of buf
	buf     *recordBuffer // nil if nothing is pending
	err     error
}

func (tx *txState) init(k [32]byte) { tx.cs.init(k) }

func (tx *txState) write(dst io.Writer, p []byte) (n int, err error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.err != nil {
		return 0, tx.err
	}
	if tx.buf == nil {
		tx.buf = txBuffers.Get().(*recordBuffer)
	}
	err = tx.flush(dst)
	for err == nil && len(p) > 0 {
		var m int
		if m, err = tx.sealSome(p); err == nil {
			err = tx.flush(dst)
		}
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			p, n = p[m:], n+m
		}
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		tx.err, tx.pending = err, nil
	}
	if len(tx.pending) == 0 {
		txBuffers.Put(tx.buf)
		tx.buf = nil
	}
	return n, err
}

// sealSome seals up to recordsAtOnce records of p and returns how many bytes of p they hold.
func (tx *txState) sealSome(p []byte) (n int, err error) {
	b := tx.buf[:0]
	for range recordsAtOnce {
		part := p[n:min(len(p), n+maxPlaintext)]
		if len(part) == 0 {
			break
		}
		if b, err = tx.cs.appendRecord(b, part); err != nil {
			return 0, err
		}
		n += len(part)
	}
	tx.pending = b
	return n, nil
}

// flush sends the pending records.
func (tx *txState) flush(dst io.Writer) error {
	for len(tx.pending) > 0 {
		n, err := dst.Write(tx.pending)
		tx.pending = tx.pending[n:]
		if err != nil {
			return err
		}
	}
	return nil
}
