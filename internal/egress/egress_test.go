package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// scriptedConn is a connection to a proxy that sends a fixed answer and records what it receives.
type scriptedConn struct {
	net.Conn // nil: crash on any unexpected use
	answer   *bytes.Reader
	sent     bytes.Buffer
	closed   int
}

func (c *scriptedConn) Read(b []byte) (int, error)      { return c.answer.Read(b) }
func (c *scriptedConn) Write(b []byte) (int, error)     { return c.sent.Write(b) }
func (c *scriptedConn) Close() error                    { c.closed++; return nil }
func (c *scriptedConn) SetReadDeadline(time.Time) error { return nil }
func (c *scriptedConn) dialer(dialled *string) *Dialer {
	return &Dialer{DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
		*dialled = network + " " + addr
		return c, nil
	}}
}

// converse dials addr through a proxy that sends answer.
func converse(t *testing.T, proxy, addr, answer string) (*scriptedConn, net.Conn, error) {
	t.Helper()
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	var dialled string
	script := &scriptedConn{answer: bytes.NewReader([]byte(answer))}
	conn, err := script.dialer(&dialled).Dial(t.Context(), u, addr)
	if want := "tcp " + net.JoinHostPort(u.Hostname(), u.Port()); u.Port() != "" && dialled != want {
		t.Errorf("dialled %s, want %s", dialled, want)
	}
	if (err != nil) != (script.closed > 0) || (err != nil) != (conn == nil) {
		t.Errorf("conn %v, closed %d times, error %v", conn, script.closed, err)
	}
	return script, conn, err
}

const ok = "HTTP/1.1 200 OK\r\n"

func TestCONNECT(t *testing.T) {
	for _, test := range []struct{ proxy, addr, answer, sent, rest string }{
		{"http://corp:3128", "db:5432", ok + "\r\n",
			"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\nUser-Agent: ginnel\r\n\r\n", ""},
		{"http://corp:3128/path?x", "[fd7a::1]:80",
			"HTTP/1.0 200 Connection established\r\nContent-Length: 3\r\nX: y\r\n\r\nabcdef",
			"CONNECT [fd7a::1]:80 HTTP/1.1\r\nHost: [fd7a::1]:80\r\nUser-Agent: ginnel\r\n\r\n", "abcdef"},
		{"http://ann:s3%3Acret@corp:3128", "db:1", ok + "Transfer-Encoding: chunked\r\n\r\nSSH-2.0-x\r\n",
			"CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\nUser-Agent: ginnel\r\nProxy-Authorization: Basic YW5uOnMzOmNyZXQ=\r\n\r\n",
			"SSH-2.0-x\r\n"},
		{"http://token@corp:3128", "db:1", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + ok +
			"\r\nx",
			"CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\nUser-Agent: ginnel\r\nProxy-Authorization: Basic dG9rZW46\r\n\r\n", "x"},
		{"http://corp:1", "db:1", ok + "\r\n" + strings.Repeat("x", 3*maxHeader),
			"CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\nUser-Agent: ginnel\r\n\r\n", strings.Repeat("x", 3*maxHeader)},
	} {
		script, conn, err := converse(t, test.proxy, test.addr, test.answer)
		if err != nil {
			t.Errorf("%s: %v", test.proxy, err)
			continue
		}
		if got := script.sent.String(); got != test.sent {
			t.Errorf("%s: sent %q, want %q", test.proxy, got, test.sent)
		}
		if rest, err := io.ReadAll(conn); err != nil || string(rest) != test.rest {
			t.Errorf("%s: the conn goes on with %.50q, %v, want %.50q", test.proxy, rest, err, test.rest)
		}
	}
}

// Failures of the proxy, and the text of the errors.
func TestRefusals(t *testing.T) {
	const db = `dialling "db:5432" through proxy `
	for _, test := range []struct {
		proxy, answer, want string
		refused             bool
	}{
		{"http://corp:3128",
			"HTTP/1.1 403 Forbidden\r\nContent-Length: 26\r\n\r\n<p>Blocked\tby\r\n\x1b[31mpolicy</p>left over",
			db + "http://corp:3128: refused by proxy: 403 Forbidden: <p>Blocked by ?[31mpolicy", true},
		{"http://corp:3128",
			"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
			db + "http://corp:3128: refused by proxy: 407 Proxy Authentication Required (it takes Negotiate, Basic)", true},
		{"http://corp:3128", "HTTP/1.1 502 Bad\x07Gateway\r\n\r\n" + strings.Repeat("\u00e4", maxBody),
			db + "http://corp:3128: refused by proxy: 502 Bad?Gateway: " + strings.Repeat("\u00e4", 91) + "...", true},
		{"http://corp:3128", "HTTP/1.1 204 No Content\r\n\r\n", db + "http://corp:3128: refused by proxy: 204 No Content",
			true},
		{"http://corp:3128", "HTTP/1.1 101 Switching Protocols\r\n\r\n", db +
			"http://corp:3128: refused by proxy: 101 Switching Protocols", true},
		{"http://corp:3128", "HTTP/1.1 503 \r\nTransfer-Encoding: chunked\r\n\r\nzz", db +
			"http://corp:3128: refused by proxy: 503", true},
		{"http://corp", "SSH-2.0-OpenSSH_9.9\r\n", db +
			`http://corp: reading answer to CONNECT: malformed HTTP response "SSH-2.0-OpenSSH_9.9"`, false},
		{"http://corp", "\x05\x00\x00\n", db +
			`http://corp: reading answer to CONNECT: malformed HTTP response "\x05\x00\x00"`, false},
		{"http://corp", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxHeader), db +
			"http://corp: reading answer to CONNECT: header is larger than 64 KiB", false},
		{"http://corp", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 2*maxHeader), db +
			"http://corp: reading answer to CONNECT: header is larger than 64 KiB", false},
		{"http://corp", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxHeader), db +
			"http://corp: reading answer to CONNECT: header is larger than 64 KiB", false},
		{"http://corp", "", db + "http://corp: reading answer to CONNECT: unexpected EOF", false},

		{"socks5://corp", "\x05\xff", db + "socks5://corp: logging in: refused by proxy: it demands a user and password",
			true},
		{"socks5://ann:s3cret@corp", "\x05\xff", db +
			"socks5://corp: logging in: refused by proxy: it takes no user and password", true},
		{"socks5h://ann:s3cret@corp", "\x05\x02\x01\x01", db +
			"socks5h://corp: logging in: refused by proxy: user or password is wrong", true},
		{"socks5://ann:" + strings.Repeat("s3cret", 50) + "@corp", "\x05\x02", db +
			"socks5://corp: logging in: user or password is longer than 255 bytes", false},
		{"socks5://corp", "\x05\x02", db + "socks5://corp: logging in: answer is not SOCKS5", false},
		{"socks5://ann:s3cret@corp", "\x05\x01", db + "socks5://corp: logging in: answer is not SOCKS5", false},
		{"socks5://corp", "HTTP/1.1 400 Bad Request\r\n\r\n", db + "socks5://corp: logging in: answer is not SOCKS5", false},
		{"socks5://corp", "\x05\x00\x05\x02\x00\x01", db +
			"socks5://corp: requesting connection: refused by proxy: connection not allowed by ruleset", true},
		{"socks5://corp", "\x05\x00\x05\x05\x00\x01", db +
			"socks5://corp: requesting connection: refused by proxy: connection refused", true},
		{"socks5://corp", "\x05\x00\x05\x2a\x00\x01", db + "socks5://corp: requesting connection: refused by proxy: code 42",
			true},
		{"socks5://corp", "\x05\x00\x04\x00\x00\x01", db + "socks5://corp: requesting connection: answer is not SOCKS5",
			false},
		{"socks5://corp", "\x05\x00\x05\x00\x00\x02", db + "socks5://corp: requesting connection: answer is not SOCKS5",
			false},
	} {
		_, _, err := converse(t, test.proxy, "db:5432", test.answer)
		if err == nil || err.Error() != test.want || errors.Is(err, ErrRefused) != test.refused {
			t.Errorf("%s, %.30q:\ngot  %v\nwant %s", test.proxy, test.answer, err, test.want)
		}
	}
}

// No error contains the password, even if the proxy sends it back.
func TestErrorsShowNoPassword(t *testing.T) {
	for _, proxy := range []string{"http://ann:s3%2F+cret@corp", "socks5://ann:s3%2F+cret@corp",
		"http://s3%2F+cret@corp"} {
		u, _ := url.Parse(proxy)
		for _, secret := range []string{"s3/+cret", "s3%2F%2Bcret", "s3%2F+cret", credentials(u.User), u.User.String(),
			u.String()} {
			for _, answer := range []string{
				"HTTP/1.1 403 " + secret + "\r\n\r\n",
				"HTTP/1.1 403 Forbidden\r\n\r\nyou sent Proxy-Authorization: Basic " + secret,
				"HTTP/1.1 407 Who\r\nProxy-Authenticate: " + secret + "\r\n\r\n",
				"HTTP/1.1 403 Forbidden\r\n\r\n" + strings.Repeat("x", 195) + secret,
				"\x05\x02\x01\x01" + secret,
			} {
				_, _, err := converse(t, proxy, "db:5432", answer)
				if err == nil || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), credentials(u.User)[:6]) {
					t.Errorf("%s, %q: got %v", proxy, answer, err)
				}
			}
		}
	}
}

func TestSOCKS5(t *testing.T) {
	long := strings.Repeat("a", 255)
	for _, test := range []struct{ proxy, addr, answer, sent, rest string }{
		{"socks5://corp:1080", "db.example:258", "\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50hello",
			"\x05\x01\x00\x05\x01\x00\x03\x0adb.example\x01\x02", "hello"},
		{"socks5h://corp:1080", "192.0.2.1:80", "\x05\x00\x05\x00\xff\x04" + strings.Repeat("x", 18),
			"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", ""},
		{"socks5://ann:s3cret@corp:1080", "[fd7a::1]:80", "\x05\x02\x01\x00\x05\x00\x00\x03\x02xy\x00\x00z",
			"\x05\x02\x00\x02\x01\x03ann\x06s3cret\x05\x01\x00\x04\xfd\x7a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", "z"},
		{"socks5://ann:s3cret@corp:1080", "[::ffff:192.0.2.1]:80", "\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50",
			"\x05\x02\x00\x02\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", ""},
		{"socks5://" + long + ":" + long + "@corp:1080", "192.0.2.1:80", "\x05\x02\x01\x00\x05\x00\x00\x03\x00\x00\x00",
			"\x05\x02\x00\x02\x01\xff" + long + "\xff" + long + "\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", ""},
		{"socks5://ann@corp:1080", long + ":65535", "\x05\x02\x05\x00\x05\x00\x00\x03\x00\x00\x00", // with a wrong version in the answer of the subnegotiation
			"\x05\x02\x00\x02\x01\x03ann\x00\x05\x01\x00\x03\xff" + long + "\xff\xff", ""},
	} {
		script, conn, err := converse(t, test.proxy, test.addr, test.answer)
		if err != nil {
			t.Errorf("%s: %v", test.proxy, err)
			continue
		}
		if got := script.sent.String(); got != test.sent {
			t.Errorf("%s: sent %q, want %q", test.proxy, got, test.sent)
		}
		if rest, err := io.ReadAll(conn); err != nil || string(rest) != test.rest {
			t.Errorf("%s: the conn goes on with %q, %v, want %q", test.proxy, rest, err, test.rest)
		}
	}
}

// An answer that ends too early, at any byte, makes the dial fail.
func TestAnswersCutAnywhere(t *testing.T) {
	for proxy, answer := range map[string]string{
		"http://corp":             "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n",
		"socks5://corp":           "\x05\x00\x05\x00\x00\x03\x03abc\x00\x50",
		"socks5://ann:pass@corp":  "\x05\x02\x01\x00\x05\x00\x00\x04" + strings.Repeat("x", 18),
		"socks5h://ann:pass@corp": "\x05\x02\x01\x00\x05\x00\x00\x01" + strings.Repeat("x", 6),
	} {
		for n := range answer {
			if _, _, err := converse(t, proxy, "db:5432", answer[:n]); !errors.Is(err, io.ErrUnexpectedEOF) ||
				errors.Is(err, ErrRefused) {
				t.Errorf("%s, %q: got %v, want an unexpected EOF", proxy, answer[:n], err)
			}
		}
		if _, _, err := converse(t, proxy, "db:5432", answer); err != nil {
			t.Errorf("%s, whole: %v", proxy, err)
		}
	}
}

// breakingConn fails after a number of reads and writes.
type breakingConn struct {
	*scriptedConn
	left int // reads and writes before it fails
}

var errBroken = errors.New("broken")

func (c *breakingConn) Read(b []byte) (int, error) {
	if c.left--; c.left < 0 {
		return 0, errBroken
	}
	return c.scriptedConn.Read(b[:min(len(b), 3)])
}

func (c *breakingConn) Write(b []byte) (int, error) {
	if c.left--; c.left < 0 {
		return 0, errBroken
	}
	return c.scriptedConn.Write(b)
}

// If the connection to the proxy breaks at any step, Dial returns that error, and not ErrRefused.
func TestConnBreaksAnywhere(t *testing.T) {
	for proxy, answer := range map[string]string{
		"http://corp":            ok + "\r\n",
		"socks5://ann:pass@corp": "\x05\x02\x01\x00\x05\x00\x00\x03\x03abc\x00\x50",
	} {
		u, _ := url.Parse(proxy)
		for left := 0; ; left++ {
			c := &breakingConn{&scriptedConn{answer: bytes.NewReader([]byte(answer))}, left}
			d := &Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
			conn, err := d.Dial(t.Context(), u, "db:5432")
			if err == nil {
				if conn == nil || left < 5 {
					t.Errorf("%s: got %v with %d steps", proxy, conn, left)
				}
				break
			}
			if !errors.Is(err, errBroken) || errors.Is(err, ErrRefused) || c.closed == 0 {
				t.Errorf("%s, broken at step %d: got %v", proxy, left, err)
			}
		}
	}
}

func TestDialRefusesArguments(t *testing.T) {
	fail := &Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
		t.Error("the proxy was dialled")
		return nil, io.EOF
	}}
	for _, test := range []struct{ proxy, addr, want string }{
		{"http://corp", "db", "address is not host:port"},
		{"http://corp", "db:0", "port is not a number from 1 to 65535"},
		{"http://corp", "db:http", "port is not a number from 1 to 65535"},
		{"http://corp", ":80", "host is neither an address nor a name"},
		{"http://corp", "db\r\nX y:80", "host is neither an address nor a name"},
		{"http://corp", "db\x7f:80", "host is neither an address nor a name"},
		{"http://corp", "db x:80", "host is neither an address nor a name"},
		{"http://corp", "db/x:80", "host is neither an address nor a name"},
		{"http://corp", "[fe80::1%eth0]:80", "host is neither an address nor a name"},
		{"http://corp", "d\u00e4:80", "host is neither an address nor a name"},
		{"socks5://corp", strings.Repeat("a", 256) + ":80", "host is neither an address nor a name"},
		{"ftp://ann:s3cret@corp", "db:80", "scheme is none of http"},
		{"http://:80", "db:80", "proxy has no host"},
	} {
		u, err := url.Parse(test.proxy)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fail.Dial(t.Context(), u, test.addr); err == nil || !strings.Contains(err.Error(), test.want) ||
			strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("%s, %q: got %v, want %s", test.proxy, test.addr, err, test.want)
		}
	}
}

// If the proxy cannot be reached, Dial wraps the network's error. The default port depends on the
// scheme.
func TestDialErrors(t *testing.T) {
	for scheme, port := range map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"} {
		d := &Dialer{DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", addr, io.ErrClosedPipe)}
		}}
		_, err := d.Dial(t.Context(), &url.URL{Scheme: scheme, Host: "corp", User: url.UserPassword("ann", "s3cret")},
			"db:5432")
		want := `dialling "db:5432" through proxy ` + scheme + "://corp: dial tcp: corp:" + port +
			": io: read/write on closed pipe"
		if !errors.Is(err, io.ErrClosedPipe) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// pipeProxy returns a Dialer whose connections are pipes; serve gets the proxy's end.
func pipeProxy(serve func(net.Conn)) *Dialer {
	return &Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go serve(server)
		return client, nil
	}}
}

// If the proxy falls silent at any step, the end of the context ends the dial and closes the
// connection.
func TestSilentProxy(t *testing.T) {
	for name, test := range map[string]struct{ proxy, says string }{
		"http at once":        {"http://corp", ""},
		"http in the header":  {"http://corp", ok + "X: "},
		"https handshake":     {"https://corp", ""},
		"https, part of it":   {"https://corp", "\x16\x03\x03"},
		"socks at once":       {"socks5://corp", ""},
		"socks after method":  {"socks5://ann:s3cret@corp", "\x05\x02"},
		"socks after login":   {"socks5://ann:s3cret@corp", "\x05\x02\x01\x00"},
		"socks in the answer": {"socks5://corp", "\x05\x00\x05\x00\x00\x01"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				d := pipeProxy(func(conn net.Conn) {
					go conn.Write([]byte(test.says))
					_, err := io.Copy(io.Discard, conn)
					ended <- err
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				u, _ := url.Parse(test.proxy)
				conn, err := d.Dial(ctx, u, "db:5432")
				if conn != nil || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
					t.Errorf("got %v, %v after %v", conn, err, time.Since(start))
				}
				if err := <-ended; err != nil {
					t.Errorf("the proxy sees %v, want the end", err)
				}
			})
		})
	}
}

// A proxy that announces a body for its refusal and does not send it delays the dial by only a
// second.
func TestSilentBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pipeProxy(func(conn net.Conn) {
			go conn.Write([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nbecau"))
			io.Copy(io.Discard, conn)
		})
		start := time.Now()
		_, err := d.Dial(t.Context(), &url.URL{Scheme: "http", Host: "corp"}, "db:5432")
		if !errors.Is(err, ErrRefused) || !strings.HasSuffix(err.Error(), "403 Forbidden: becau") ||
			time.Since(start) != bodyTimeout {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

// After the dial, neither the end of its context nor a deadline that it set affects the connection.
func TestContextEndsAfterDial(t *testing.T) {
	for proxy, answer := range map[string]string{"http://corp": ok + "\r\n",
		"socks5://corp": "\x05\x00\x05\x00\x00\x01abcdef"} {
		synctest.Test(t, func(t *testing.T) {
			d := pipeProxy(func(conn net.Conn) {
				go conn.Write([]byte(answer))
				b := make([]byte, 100)
				for {
					n, err := conn.Read(b)
					if err != nil {
						return
					}
					if string(b[:n]) == "ping" {
						conn.Write([]byte("pong"))
						conn.Close()
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			u, _ := url.Parse(proxy)
			conn, err := d.Dial(ctx, u, "db:5432")
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			time.Sleep(time.Hour)
			conn.Write([]byte("ping"))
			if got, err := io.ReadAll(conn); err != nil || string(got) != "pong" {
				t.Errorf("%s: got %q, %v", proxy, got, err)
			}
			conn.Close()
		})
	}
}
