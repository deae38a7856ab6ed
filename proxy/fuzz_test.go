package proxy

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A request that parses also parses without the bytes after it, and no prefix of it parses. Its
// fields hold the bytes of the input.
func FuzzSOCKS4(f *testing.F) {
	f.Add([]byte("\x04\x01\x00\x50\x01\x02\x03\x04me\x00rest"))
	f.Add([]byte("\x04\x01\x00\x50\x00\x00\x00\x04me\x00name\x00rest"))
	f.Add([]byte("\x04\x02\x00\x50\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, n, err := parseSOCKS4(b)
		if err != nil {
			if (len(b) == 0 || b[0] == socks4Version) && len(b) >= maxSOCKS4Request && errors.Is(err, errShort) {
				t.Errorf("%d bytes are reported as too few", len(b))
			}
			return
		}
		if again, m, err := parseSOCKS4(b[:n]); again != req || m != n || err != nil {
			t.Errorf("without the rest: %+v, %d, %v, want %+v, %d", again, m, err, req, n)
		}
		for i := range n {
			if _, _, err := parseSOCKS4(b[:i]); !errors.Is(err, errShort) {
				t.Errorf("the first %d of %d bytes: %v", i, n, err)
			}
		}
		want := string(b[8:n])
		got := req.user + "\x00"
		if nameFollows(req.addr) {
			got += req.name + "\x00"
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A parsed header, encoded again, parses to the same address.
func FuzzDatagram(f *testing.F) {
	f.Add(datagramTo(netip.MustParseAddrPort("1.2.3.4:5"), "data"))
	f.Add(datagramTo(netip.MustParseAddrPort("[1::2]:5"), "data"))
	f.Add(datagramToName("name", 5, "data"))
	f.Add(datagramToName("fe80::1%0", 5, "data"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var dst Addr
		n, err := parseDatagram(b, &dst)
		if err != nil {
			return
		}
		if dst.IP.IsValid() == (dst.Name != "") {
			t.Fatalf("%+v is both a name and an address, or neither", dst)
		}
		if _, err := parseDatagram(b[:n], new(Addr)); err != nil {
			t.Errorf("without data: %v", err)
		}
		if dst.Name != "" {
			if got := datagramToName(dst.Name, dst.Port, ""); string(got[2:]) != string(b[2:n]) {
				t.Errorf("got % x, want % x", got, b[:n])
			}
			return
		}
		var back Addr
		dst.IP = dst.IP.WithZone("") // the encoded address has no zone
		header := appendDatagramHeader(nil, addrPortOf(dst))
		if m, err := parseDatagram(header, &back); m != len(header) || err != nil || back != dst {
			t.Errorf("got %+v, %v, want %+v", back, err, dst)
		}
	})
}

// Whatever a client sends, the server closes the connection after the client has ended its stream,
// and keeps serving.
func FuzzServer(f *testing.F) {
	for _, request := range requests {
		f.Add([]byte(request + "data"))
	}
	f.Add([]byte("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x05\x02\x00\x02\x01\x01a\x01b"))
	f.Add([]byte("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"5\r\nhello\r\n0\r\nX: y\r\n\r\n"))
	f.Add([]byte("GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	f.Add([]byte("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\nTRACE http://a/ HTTP/1.0\r\n\r\n"))
	const timeout = 5 * time.Second
	s := &Server{Dial: dialEcho, ListenPacket: listenPacket, HandshakeTimeout: timeout, DialTimeout: timeout}
	addr := serve(f, s)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := dialChat(t, "tcp", addr)
		c.Write(b) // may fail after the server has closed the connection
		closeWrite(c.Conn)
		discardAll(c)
		c = dialChat(t, "tcp", addr)
		openers["socks5"](c)
		c.say("works").hear("works")
	})
}

// Requests are understood however they are split into two reads. In-memory conns keep the split.
func TestSplitReads(t *testing.T) {
	for name, request := range requests {
		if name == "absolute" {
			continue
		}
		ln := newMemListener()
		s := &Server{Dial: dialEcho}
		serveOn(t, s, ln)
		for i := range len(request) - 1 {
			client := newChat(t, ln.dial())
			go func() {
				io.WriteString(client, request[:i+1])
				io.WriteString(client, request[i+1:])
				io.WriteString(client, "data")
				client.finish()
			}()
			got, err := io.ReadAll(client)
			if err != nil || !strings.HasSuffix(string(got), "data") {
				t.Errorf("%s after %d: got %q, %v", name, i+1, got, err)
			}
			client.Close()
		}
	}
}
