//go:build unix

package derp

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"ginnel/relay/internal/relaytest"
)

// What a peer makes the connection keep without reading any of it is bounded, and then the
// connection fails.
func TestSockKeepsOnlySoMuch(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String()) // never reads
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := newSock(conn).(*sock)
	kicks := 0
	s.start(func() { kicks++ })
	pong := make([]byte, 131)
	for range 256 << 20 / len(pong) {
		if _, err = s.Write(pong); err != nil {
			break
		}
		if len(s.rest) > maxKept {
			t.Fatalf("%d bytes kept, want %d at most", len(s.rest), maxKept)
		}
	}
	if !errors.Is(err, errKeptTooMuch) || len(s.rest) < LargeBuffer || kicks == 0 {
		t.Errorf("ended with %v, %d bytes kept, flushing asked for %d times", err, len(s.rest), kicks)
	}
	if _, again := s.Write(pong); !errors.Is(again, errKeptTooMuch) {
		t.Errorf("another write: %v", again)
	}
	if err := s.flush(0); !errors.Is(err, errKeptTooMuch) || s.pending() || s.rest != nil {
		t.Errorf("flush: %v, %d bytes kept", err, len(s.rest))
	}
}

// tlsPair returns both ends of a connection; a sock is at the bottom of the server's.
func tlsPair(t *testing.T) (server, client *tls.Conn) {
	t.Helper()
	near, far := relaytest.TCPPair(t)
	ca := relaytest.NewCA(t)
	server = tls.Server(newSock(near), &tls.Config{Certificates: []tls.Certificate{ca.Issue(time.Hour, "relay.example")},
		SessionTicketsDisabled: true})
	client = tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// What has come in many records is taken by one read, whatever TLS asked the system for; what is
// not whole waits, and the end comes after all of it.
func TestReadsAreGathered(t *testing.T) {
	const records, size = 9, 900
	server, client := tlsPair(t)
	half := testFrames(1, records, 1, size)
	for i := range records {
		client.Write(testFrames(1, i, 1, size))
	}
	client.Write(half[:100])
	client.Write(half[100:])
	client.Close()

	var f FrameReader
	f.Open(server)
	var got []byte
	for range 2 {
		n, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		if got = f.Buffered(); n == (records+1)*size {
			break // the first read of the system brought all
		}
	}
	if len(got) != (records+1)*size {
		t.Fatalf("two reads brought %d bytes, want %d", len(got), (records+1)*size)
	}
	for i := range records + 1 {
		if !bytes.Equal(got[i*size:][:size], testFrames(1, i, 1, size)) {
			t.Fatalf("frame %d differs", i)
		}
	}
	f.Take(uint64(len(got)))
	if n, err := f.Read(); err != io.EOF {
		t.Errorf("after the last frame: %d bytes and %v, want the end", n, err)
	}
	if f.buf != nil || f.sock.inbuf != nil {
		t.Error("a buffer is held")
	}
}

// A stream that ends within a frame is at its end, though TCP stays open: nothing more is waited
// for.
func TestEndWithinAFrame(t *testing.T) {
	server, client := tlsPair(t)
	client.Write(testFrames(1, 0, 1, 900)[:100])
	client.CloseWrite()
	var f FrameReader
	f.Open(server)
	ended := make(chan error, 1)
	go func() {
		_, err := readFrames(&f)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != io.ErrUnexpectedEOF {
			t.Errorf("ended with %v, want %v", err, io.ErrUnexpectedEOF)
		}
	case <-time.After(10 * time.Second):
		t.Error("the reader waits for the rest of a frame that will not come")
	}
}

// A deadline ends a read that waits, and not the connection.
func TestSockReadDeadline(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	s := newSock(near)
	s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	b := make([]byte, 10)
	if n, err := s.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes and %v, want the deadline", n, err)
	}
	s.SetReadDeadline(time.Time{})
	far.Write([]byte("later"))
	if n, err := s.Read(b[:2]); err != nil || string(b[:n]) != "la" {
		t.Fatalf("%q and %v", b[:n], err)
	}
	if n, err := s.Read(b); err != nil || string(b[:n]) != "ter" {
		t.Fatalf("%q and %v", b[:n], err)
	}
	far.SetLinger(0)
	far.Close()
	if _, err := s.Read(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
}
