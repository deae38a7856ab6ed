//go:build unix

package relay

import (
	"errors"
	"net"
	"testing"
)

// What a peer makes the connection keep without reading any of it is bounded, and then the connection fails.
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
	if !errors.Is(err, errKeptTooMuch) || len(s.rest) < largeBuffer || kicks == 0 {
		t.Errorf("ended with %v, %d bytes kept, flushing asked for %d times", err, len(s.rest), kicks)
	}
	if _, again := s.Write(pong); !errors.Is(again, errKeptTooMuch) {
		t.Errorf("another write: %v", again)
	}
	if err := s.flush(0); !errors.Is(err, errKeptTooMuch) || s.pending() || s.rest != nil {
		t.Errorf("flush: %v, %d bytes kept", err, len(s.rest))
	}
}
