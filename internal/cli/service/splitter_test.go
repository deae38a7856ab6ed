package service

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
)

// What is opened is closed again, also for those who have not said anything.
func TestSplitterClose(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewSplitter(ln, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Go(s.Run)
	silent, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	unread, err := net.Dial("tcp", ln.Addr().String()) // sorted, and nobody accepts it
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	fmt.Fprint(unread, "GET")
	s.Close()
	wg.Wait()
	for _, conn := range []net.Conn{silent, unread} {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
	}
	if _, err := s.TLS.Accept(); err == nil {
		t.Error("accepted after Close")
	}
}
