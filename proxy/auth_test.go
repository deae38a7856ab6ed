package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func annOnly(user, password string) bool { return user == "ann" && password == "secret" }

const annBasic = "Basic YW5uOnNlY3JldA=="

func TestProxyAuthentication(t *testing.T) {
	s := &Server{Auth: annOnly, Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.HasPrefix(name, "Proxy-") {
				t.Errorf("origin saw %s", name)
			}
		}
		io.WriteString(w, "ok")
	})}
	addr := serve(t, s)
	for _, tt := range []struct {
		credentials *url.Userinfo
		want        int
	}{{nil, 407}, {url.UserPassword("ann", "wrong"), 407}, {url.UserPassword("ann", "secret"), 200}} {
		res, err := httpClient(t, addr, tt.credentials).Get("http://web/")
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tt.want {
			t.Errorf("%v: status %d, want %d", tt.credentials, res.StatusCode, tt.want)
		}
		got := strings.HasPrefix(res.Header.Get("Proxy-Authenticate"), "Basic realm=")
		if want := tt.want == 407; got != want {
			t.Errorf("%v: Proxy-Authenticate is %q", tt.credentials, res.Header.Get("Proxy-Authenticate"))
		}
		res.Body.Close()
	}
	if got := s.Stats().AuthRefused; got != 2 {
		t.Errorf("counted %d, want 2", got)
	}
}

// After a 407 response a client can authenticate on the same connection.
func TestConnectAfter407(t *testing.T) {
	addr := serve(t, &Server{Auth: annOnly, Dial: dialEcho})
	c := dialChat(t, "tcp", addr)
	c.say("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").hear("HTTP/1.1 407 Proxy Authentication Required\r\n")
	head := make([]byte, 4096)
	for n := 0; !strings.HasSuffix(string(head[:n]), "password\n"); {
		m, err := c.Read(head[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	c.say("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nProxy-Authorization: " + annBasic + "\r\n\r\n").
		hear("HTTP/1.1 200 Connection established\r\n\r\n").say("x").hear("x")
}

func TestMalformedCredentials(t *testing.T) {
	addr := serve(t, &Server{Auth: annOnly, Dial: dialEcho})
	for _, header := range []string{
		"", "Basic", "Basic ", "Basic !!!", "Basic YW5u", "Bearer YW5uOnNlY3JldA==", "YW5uOnNlY3JldA==",
	} {
		dialChat(t, "tcp", addr).say("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nProxy-Authorization: " + header + "\r\n\r\n").
			hear("HTTP/1.1 407 ")
	}
}

// Serve refuses a listener that other machines can reach, unless there is a password.
func TestNetworkListenerNeedsAuth(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "[::]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{Dial: dialEcho}
		if err := s.Serve(ln); !errors.Is(err, ErrNeedsAuth) {
			t.Errorf("%s: got %v, want %v", addr, err, ErrNeedsAuth)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener was left open", addr)
		}
	}
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port := serveOn(t, &Server{Dial: dialEcho, Auth: annOnly}, ln).(*net.TCPAddr).Port
	c := dialChat(t, "tcp", (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String())
	c.send("05 01 00").want("05 ff")
}

func TestServeWithoutDial(t *testing.T) {
	if err := new(Server).Serve(listen(t)); !errors.Is(err, errNoDial) {
		t.Errorf("got %v, want %v", err, errNoDial)
	}
}

func TestServeAfterClose(t *testing.T) {
	s := &Server{Dial: dialEcho}
	s.Close()
	s.Close()
	if err := s.Serve(listen(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

// page answers with the path and the credentials of the request.
func page(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "page "+r.URL.Path+" "+r.Header.Get("Authorization")+r.Header.Get("Proxy-Authorization"))
}

func TestPages(t *testing.T) {
	s := &Server{Dial: dialEcho, Pages: http.HandlerFunc(page), Auth: annOnly} // pages need no password on loopback
	addr := serve(t, s)
	_, port, _ := net.SplitHostPort(addr)
	for _, tt := range []struct {
		target, host string
		want         int
	}{
		{"/x", "127.0.0.1:" + port, 200},
		{"/x", "127.0.0.1", 200},
		{"/x", "localhost:" + port, 200},
		{"/x", "LocalHost.", 200},
		{"/x", "[::1]:" + port, 200},
		{"/x", "[::1]", 200},
		{"/x", "127.8.9.10:1", 200},
		{"/x", "evil.example", 421},
		{"/x", "evil.example:" + port, 421},
		{"/x", "127.0.0.1.evil.example", 421},
		{"/x", "localhost.evil.example:" + port, 421},
		{"/x", "0.0.0.0:" + port, 421},
		{"/x", "192.168.1.1", 421},
		{"http://" + addr + "/x", "ignored", 200},
		{"http://" + addr, "ignored", 200},
		{"http://localhost:" + port + "/x", "ignored", 200},
		{"HTTP://[::1]:" + port + "/x", "ignored", 200},
	} {
		res := readResponse(t, dialChat(t, "tcp", addr).say("GET "+tt.target+" HTTP/1.1\r\nHost: "+tt.host+"\r\n\r\n"), "GET")
		if res.StatusCode != tt.want {
			t.Errorf("%s of %s: status %d, want %d", tt.target, tt.host, res.StatusCode, tt.want)
		}
	}
	dialChat(t, "tcp", addr).say("GET /x HTTP/1.0\r\n\r\n").hear("HTTP/1.0 421 Misdirected Request\r\n")
	dialChat(t, "tcp", addr).say("OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n").hear("HTTP/1.1 421 ")
}

func TestNoPages(t *testing.T) {
	addr := serve(t, &Server{Dial: dialEcho})
	dialChat(t, "tcp", addr).say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").hear("HTTP/1.1 404 ")
}

// A Server may have listeners of several kinds. Each has the rules of its kind.
func TestSeveralListeners(t *testing.T) {
	s := &Server{Dial: dialEcho, Pages: http.HandlerFunc(page)}
	tcp := serve(t, s)
	unix := serveKind(t, "unix", s)
	dialChat(t, "tcp", tcp).say("GET / HTTP/1.1\r\nHost: ginnel\r\n\r\n").hear("HTTP/1.1 421 ")
	dialChat(t, "unix", unix.String()).say("GET / HTTP/1.1\r\nHost: ginnel\r\n\r\n").hear("HTTP/1.1 200 ")
	for _, c := range []*chat{dialChat(t, "tcp", tcp), dialChat(t, "unix", unix.String())} {
		openers["socks5"](c)
		c.say("x").hear("x")
	}
}

// No password appears in a log or in an answer, in whatever form it was sent.
func TestPasswordsAreNotLogged(t *testing.T) {
	var out syncBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := &Server{Auth: annOnly, Dial: dialFail(io.EOF), Log: log, ConnLog: log}
	addr := serve(t, s)
	for _, request := range []string{
		"\x05\x01\x02\x01\x03ann\x06secret\x05\x01\x00\x03\x01a\x00\x50",
		"\x05\x01\x02\x01\x03bob\x06secret\x05\x01\x00\x03\x01a\x00\x50",
		"\x05\x01\x02\x01\x03ann\x07secret",
		"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: " + annBasic + "\r\n\r\n",
		"CONNECT ann:secret@a:80 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: " + annBasic + "\r\n\r\n",
		"GET http://ann:secret@a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nProxy-Authorization: " + annBasic + "\r\n\r\n",
		"GET http://ann:secret@a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	} {
		c := dialChat(t, "tcp", addr).say(request).finish()
		answer, _ := io.ReadAll(c)
		if strings.Contains(string(answer), "secret") {
			t.Errorf("answered %q", answer)
		}
	}
	s.Close()
	got := out.String()
	if strings.Contains(got, "secret") || strings.Contains(got, annBasic) || strings.Count(got, "connection ended") < 3 {
		t.Errorf("logged\n%s", got)
	}
}

// A page may use Authorization for a token of its own. The proxy keeps that header if it needs no
// password itself.
func TestPagesSeeTheirOwnCredentials(t *testing.T) {
	addr := serve(t, &Server{Dial: dialEcho, Pages: http.HandlerFunc(page)})
	c := dialChat(t, "tcp", addr).say("GET /x HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer t\r\n" +
		"Proxy-Authorization: Basic YTpi\r\n\r\n")
	if got, _ := io.ReadAll(readResponse(t, c, "GET").Body); string(got) != "page /x Bearer t" {
		t.Errorf("got %q", got)
	}
}

func TestPagesOverUnix(t *testing.T) {
	addr := serveKind(t, "unix", &Server{Dial: dialEcho, Pages: http.HandlerFunc(page), Auth: annOnly})
	for _, host := range []string{"localhost", "ginnel", ""} {
		c := dialChat(t, "unix", addr.String()).say("GET /x HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		if res := readResponse(t, c, "GET"); res.StatusCode != 200 {
			t.Errorf("Host %q: status %d, want 200", host, res.StatusCode)
		}
	}
}

// On a listener that other machines can reach, pages need the password, and a Host that means
// loopback without a resolver.
func TestPagesForTheNetwork(t *testing.T) {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Dial: dialEcho, Pages: http.HandlerFunc(page), Auth: annOnly}
	port := serveOn(t, s, ln).(*net.TCPAddr).Port
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
	for _, tt := range []struct {
		host, header string
		want         int
		body         string
	}{
		{"localhost", "X: y", 401, ""},
		{"localhost", "Authorization: Basic eDp5", 401, ""},
		{"localhost", "Authorization: " + annBasic, 200, "page /x "},
		{"localhost", "Proxy-Authorization: " + annBasic + "\r\nAuthorization: Bearer t", 200, "page /x Bearer t"},
		{"evil.example", "Authorization: " + annBasic, 421, ""},
	} {
		c := dialChat(t, "tcp", addr).say("GET /x HTTP/1.0\r\nHost: " + tt.host + "\r\n" + tt.header + "\r\n\r\n")
		res := readResponse(t, c, "GET")
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != tt.want || tt.body != "" && string(body) != tt.body {
			t.Errorf("%s, %s: got %d %q, want %d %q", tt.host, tt.header, res.StatusCode, body, tt.want, tt.body)
		}
		if got := res.Header.Get("Www-Authenticate"); (got != "") != (tt.want == 401) {
			t.Errorf("%s, %s: WWW-Authenticate is %q", tt.host, tt.header, got)
		}
	}
}

// A request whose name resolves to the listener itself does not loop: it arrives again in origin
// form, with a Host that is refused.
func TestNameOfTheListenerItself(t *testing.T) {
	r := new(recorder)
	s := &Server{Dial: r.dial, Pages: http.HandlerFunc(page)}
	ln := listen(t)
	r.next = (&target{t, "tcp", ln}).dial
	addr := serveOn(t, s, ln).String()
	_, port, _ := net.SplitHostPort(addr)
	dialChat(t, "tcp", addr).say("GET http://myself:" + port + "/ HTTP/1.1\r\nHost: myself\r\n\r\n").hear("HTTP/1.1 421 ")
	if len(r.addrs) != 1 {
		t.Errorf("dialled %v, want once", r.addrs)
	}
}
