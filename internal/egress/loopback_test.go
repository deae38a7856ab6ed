package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/things-go/go-socks5"
	"golang.org/x/net/nettest"
)

// listen serves every connection to a loopback listener until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// greeter sends a greeting at once, reads until the end of the stream, and then answers.
func greeter(conn net.Conn) {
	io.WriteString(conn, "hello ")
	heard, err := io.ReadAll(conn)
	if err == nil {
		conn.Write(bytes.ToUpper(heard))
	}
}

// relay copies in both directions and passes on the half-close of each.
func relay(a io.ReadWriteCloser, aReader io.Reader, b *net.TCPConn) {
	defer b.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(b, aReader)
		b.CloseWrite()
	})
	io.Copy(a, b)
	a.(closeWriter).CloseWrite()
	wg.Wait()
}

// connectProxy is a CONNECT proxy that accepts the credentials of ann.
func connectProxy(conn net.Conn) {
	br := bufio.NewReader(conn)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	if req.Method != http.MethodConnect || req.Header.Get("Proxy-Authorization") != "Basic YW5uOnMzY3JldA==" {
		io.WriteString(conn,
			"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
		return
	}
	out, err := net.Dial("tcp", req.Host)
	if err != nil {
		io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n"+err.Error())
		return
	}
	// The header and the first bytes of the stream in one segment: none of them must be lost.
	first := make([]byte, len("hello "))
	if _, err := io.ReadFull(out, first); err != nil {
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"+string(first))
	relay(conn, br, out.(*net.TCPConn))
}

// proxies starts a proxy of each kind. It returns their URLs, and the root certificate of the https
// proxy.
func proxies(t *testing.T) (urls []*url.URL, roots *x509.CertPool) {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	t.Cleanup(cert.Close)
	roots = x509.NewCertPool()
	roots.AddCert(cert.Certificate())
	socks := socks5.NewServer(socks5.WithCredential(socks5.StaticCredentials{"ann": "s3cret"}))

	user := url.UserPassword("ann", "s3cret")
	return []*url.URL{
		{Scheme: "http", User: user, Host: listen(t, connectProxy)},
		{Scheme: "https", User: user, Host: listen(t, func(conn net.Conn) {
			conn = tls.Server(conn, &tls.Config{Certificates: cert.TLS.Certificates})
			defer conn.Close()
			connectProxy(conn)
		})},
		{Scheme: "socks5", User: user, Host: listen(t, func(conn net.Conn) { socks.ServeConn(conn) })},
	}, roots
}

// A connection through each real proxy, of which the SOCKS5 one is an independent implementation,
// passes early data of the server and a half-close of the client.
func TestHalfClose(t *testing.T) {
	target := listen(t, greeter)
	urls, roots := proxies(t)
	for _, proxy := range urls {
		t.Run(proxy.Scheme, func(t *testing.T) {
			d := &Dialer{RootCAs: roots}
			conn, err := d.Dial(t.Context(), proxy, target)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			question := strings.Repeat("how are you? ", 10_000)
			if _, err := io.WriteString(conn, question); err != nil {
				t.Fatal(err)
			}
			half, ok := conn.(closeWriter)
			if !ok {
				t.Fatalf("%T has no CloseWrite", conn)
			}
			if err := half.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if want := "hello " + strings.ToUpper(question); err != nil || string(got) != want {
				t.Errorf("got %d bytes starting with %.20q, %v, want %d", len(got), got, err, len(want))
			}
		})
	}
}

func TestRealRefusals(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	urls, roots := proxies(t)
	for _, proxy := range urls {
		d := &Dialer{RootCAs: roots}
		if _, err := d.Dial(t.Context(), proxy, closed.Addr().String()); !errors.Is(err, ErrRefused) ||
			!strings.Contains(err.Error(), "refused") {
			t.Errorf("%s, closed port: got %v", proxy.Scheme, err)
		}
		wrong := *proxy
		wrong.User = url.UserPassword("ann", "secret")
		if _, err := d.Dial(t.Context(), &wrong, "127.0.0.1:1"); !errors.Is(err, ErrRefused) {
			t.Errorf("%s, wrong password: got %v", proxy.Scheme, err)
		}
	}
	var unknown x509.UnknownAuthorityError
	if _, err := new(Dialer).Dial(t.Context(), urls[1], "127.0.0.1:1"); !errors.As(err, &unknown) {
		t.Errorf("https with an unknown authority: got %v", err)
	}
}

// The connection passes nettest.TestConn, also if Dial has read its first bytes.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := net.Pipe()
		c := &firstConn{Conn: a}
		return c, b, func() { c.Close(); b.Close() }, nil
	})
}

func TestFirstBytes(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	conn := withFirst(a, []byte("hello"))
	if _, ok := conn.(closeWriter); ok {
		t.Error("the wrapper of a pipe has CloseWrite, the pipe has not")
	}
	if withFirst(a, nil) != a {
		t.Error("a connection without first bytes was wrapped")
	}
	buf := make([]byte, 3)
	for _, want := range []string{"hel", "lo"} {
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
	go io.WriteString(b, "you")
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "you" {
		t.Errorf("got %q, %v", buf[:n], err)
	}

	conn = withFirst(a, []byte("hello"))
	conn.Close()
	if n, err := conn.Read(buf); n != 0 || err == nil {
		t.Errorf("after Close: got %q, %v", buf[:n], err)
	}
}

// Concurrent readers get every byte once, and Close wakes a blocked reader.
func TestFirstBytesConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		conn := withFirst(a, bytes.Repeat([]byte("x"), 1000))
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for range 4 {
			wg.Go(func() {
				buf := make([]byte, 7)
				for {
					n, err := conn.Read(buf)
					mu.Lock()
					total += n
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		b.Write(make([]byte, 500))
		time.Sleep(time.Second)
		conn.Close()
		wg.Wait()
		if total != 1500 {
			t.Errorf("read %d bytes, want 1500", total)
		}
	})
}
