package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func readResponse(t testing.TB, c *chat, method string) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// origin starts a web server, and returns a Dial that connects to it for every destination.
func origin(t testing.TB, h http.HandlerFunc) (dial dialFunc) {
	t.Helper()
	tg := newTarget(t, "tcp")
	srv := &http.Server{Handler: h}
	go srv.Serve(tg.ln)
	t.Cleanup(func() { srv.Close() })
	return tg.dial
}

// rawOrigin starts a server that answers the head of each request with exactly the bytes that
// respond returns. The heads are sent to requests.
func rawOrigin(t testing.TB, respond func(head string) string) (dial dialFunc, requests chan string) {
	t.Helper()
	requests = make(chan string, 16)
	tg := newTarget(t, "tcp")
	go func() {
		for {
			nc, err := tg.ln.Accept()
			if err != nil {
				return
			}
			go answerRaw(nc, respond, requests)
		}
	}()
	return tg.dial, requests
}

func answerRaw(nc net.Conn, respond func(head string) string, requests chan string) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	for {
		var head strings.Builder
		for !strings.HasSuffix(head.String(), "\r\n\r\n") {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			head.WriteString(line)
		}
		requests <- head.String()
		if _, err := io.WriteString(nc, respond(head.String())); err != nil {
			return
		}
	}
}

func respondOK(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" }

// httpClient returns an HTTP client that uses the proxy at addr. credentials may be nil.
func httpClient(t testing.TB, addr string, credentials *url.Userinfo) *http.Client {
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr, User: credentials})}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestMethods(t *testing.T) {
	s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", r.Method+" "+r.RequestURI+" "+r.Host)
		w.Write(body)
	})}
	c := httpClient(t, serve(t, s), nil)
	for _, method := range []string{
		"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH",
	} {
		var body io.Reader
		if method != "GET" && method != "HEAD" && method != "TRACE" {
			body = strings.NewReader("content")
		}
		req, _ := http.NewRequest(method, "http://web.mesh:8080/a?b", body)
		res, err := c.Do(req)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		got, _ := io.ReadAll(res.Body)
		if saw, want := res.Header.Get("X-Saw"), method+" /a?b web.mesh:8080"; saw != want {
			t.Errorf("origin saw %q, want %q", saw, want)
		}
		if want := map[bool]string{true: "content"}[body != nil]; string(got) != want {
			t.Errorf("%s: body %q, want %q", method, got, want)
		}
	}
	if got := s.Stats(); got.HTTPRequests != 10 || got.HTTP != 1 {
		t.Errorf("counted %d requests on %d connections, want 10 on 1", got.HTTPRequests, got.HTTP)
	}
}

// The origin receives what the client has sent, except what is for the proxy.
func TestRequestAtOrigin(t *testing.T) {
	tests := []struct{ name, say, want string }{{
		name: "plain",
		say:  "GET http://web/ HTTP/1.1\r\nHost: web\r\nAccept: */*\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web\r\nAccept: */*\r\n\r\n",
	}, {
		name: "no path",
		say:  "GET http://web?q HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET /?q HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "path and query as written",
		say:  "GET http://web/a%2fb|c//../%7e?x=;&%zz=1|2 HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET /a%2fb|c//../%7e?x=;&%zz=1|2 HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "fragment of a path",
		say:  "GET http://web/a#b?c HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET /a HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "fragment of a query",
		say:  "GET http://web/a?b=%23c#d HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET /a?b=%23c HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "fragment with two slashes",
		say:  "GET http://web//a#d HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET //a HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "two slashes",
		say:  "GET http://web//a HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET //a HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "the URL's host, not the header's (RFC 9112 section 3.2.2)",
		say:  "GET http://web:81/ HTTP/1.1\r\nHost: other\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web:81\r\n\r\n",
	}, {
		name: "user and password in the URL",
		say:  "GET http://ann:secret@web/ HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "hop-by-hop and Proxy-*",
		say: "GET http://web/ HTTP/1.1\r\nHost: web\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 1\r\n" +
			"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\nproxy-foo: 1\r\n" +
			"TE: gzip\r\nUpgrade: x\r\nX-Yours: 2\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web\r\nX-Yours: 2\r\n\r\n",
	}, {
		name: "forwarding headers of the client are kept",
		say:  "GET http://web/ HTTP/1.1\r\nHost: web\r\nVia: 1.0 x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web\r\nVia: 1.0 x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
	}, {
		name: "forwarding headers, if hop-by-hop",
		say:  "GET http://web/ HTTP/1.1\r\nHost: web\r\nConnection: x-forwarded-for\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "HTTP/1.0",
		say:  "GET http://web/ HTTP/1.0\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "OPTIONS for the server as a whole (RFC 9112 section 3.2.4)",
		say:  "OPTIONS http://web HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n",
	}, {
		name: "OPTIONS of the root",
		say:  "OPTIONS http://web/ HTTP/1.1\r\nHost: web\r\nMax-Forwards: 3\r\n\r\n",
		want: "OPTIONS / HTTP/1.1\r\nHost: web\r\nMax-Forwards: 2\r\n\r\n",
	}, {
		name: "upper case scheme",
		say:  "GET HTTP://Web/ HTTP/1.1\r\nHost: web\r\n\r\n",
		want: "GET / HTTP/1.1\r\nHost: Web\r\n\r\n",
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dial, requests := rawOrigin(t, respondOK)
			addr := serve(t, &Server{Dial: dial})
			res := readResponse(t, dialChat(t, "tcp", addr).say(tt.say), "GET")
			if res.StatusCode != 200 {
				t.Fatalf("status %d", res.StatusCode)
			}
			if got := <-requests; got != tt.want {
				t.Errorf("origin heard\n%q, want\n%q", got, tt.want)
			}
		})
	}
}

// The client receives what the origin has sent, except what is for the proxy.
func TestResponseAtClient(t *testing.T) {
	tests := []struct{ name, request, say, want string }{{
		name: "hop-by-hop and Proxy-*",
		say: "HTTP/1.1 200 OK\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\nKeep-Alive: 1\r\n" +
			"Proxy-Authenticate: x\r\nProxy-Status: y\r\nDate: d\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nok",
		want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: a/b\r\nDate: d\r\n\r\nok",
	}, {
		name: "no Content-Type is added",
		say:  "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 6\r\n\r\n<html>",
		want: "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nDate: d\r\n\r\n<html>",
	}, {
		name: "no Content-Type is added after an interim response, which is forwarded",
		say:  "HTTP/1.1 103 Early Hints\r\nLink: l\r\n\r\nHTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 6\r\n\r\n<html>",
		want: "HTTP/1.1 103 Early Hints\r\nLink: l\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\nDate: d\r\n\r\n<html>",
	}, {
		name: "a 100 (Continue) that was not expected",
		say:  "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok",
		want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: d\r\n\r\nok",
	}, {
		name:    "no interim response to HTTP/1.0 (RFC 9110 section 15.2)",
		request: "GET http://web/ HTTP/1.0\r\n\r\n",
		say:     "HTTP/1.1 103 Early Hints\r\nLink: l\r\n\r\nHTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok",
		want:    "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nDate: d\r\n\r\nok",
	}, {
		name:    "chunked becomes read-until-close for HTTP/1.0",
		request: "GET http://web/ HTTP/1.0\r\n\r\n",
		say:     "HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		want:    "HTTP/1.0 200 OK\r\nDate: d\r\n\r\nok",
	}, {
		name:    "HTTP/1.0 with keep-alive",
		request: "GET http://web/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		say:     "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok",
		want:    "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nDate: d\r\nConnection: keep-alive\r\n\r\nok",
	}, {
		name:    "Content-Length of a HEAD response",
		request: "HEAD http://web/ HTTP/1.1\r\nHost: web\r\n\r\n",
		say:     "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2000\r\n\r\n",
		want:    "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\nDate: d\r\n\r\n",
	}, {
		name: "not modified",
		say:  "HTTP/1.1 304 Not Modified\r\nDate: d\r\nEtag: e\r\n\r\n",
		want: "HTTP/1.1 304 Not Modified\r\nDate: d\r\nEtag: e\r\n\r\n",
	}, {
		name: "compressed content stays compressed",
		say: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: a/b\r\nDate: d\r\n" +
			"Content-Length: 2\r\n\r\n\x1f\x8b",
		want: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\nContent-Type: a/b\r\n" +
			"Date: d\r\n\r\n\x1f\x8b",
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dial, _ := rawOrigin(t, func(string) string { return tt.say })
			request := tt.request
			if request == "" {
				request = "GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n"
			}
			dialChat(t, "tcp", serve(t, &Server{Dial: dial})).say(request).hear(tt.want)
		})
	}
}

func TestTrailersAndChunksBothWays(t *testing.T) {
	s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Count"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
	})}
	c := httpClient(t, serve(t, s), nil)
	req, _ := http.NewRequest("POST", "http://web/", io.MultiReader(strings.NewReader("one "), strings.NewReader("two")))
	req.Trailer = http.Header{"X-Count": []string{"7"}}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if string(body) != "one two" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
	if got := res.Trailer.Get("X-Sum") + " " + res.Trailer.Get("X-Late"); got != "7 unannounced" {
		t.Errorf("trailers are %v", res.Trailer)
	}
}

// A response is forwarded as it arrives, not when it is complete.
func TestStreaming(t *testing.T) {
	next := make(chan struct{})
	s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			io.WriteString(w, "tick")
			w.(http.Flusher).Flush()
			<-next
		}
	})}
	res, err := httpClient(t, serve(t, s), nil).Get("http://web/")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, got); string(got) != "tick" {
			t.Fatalf("got %q, %v", got, err)
		}
		next <- struct{}{}
	}
	res.Body.Close()
}
