package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestExpectContinue(t *testing.T) {
	const request = "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	t.Run("the origin wants the body", func(t *testing.T) {
		s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header()["Date"] = nil
			w.Write(body)
		})}
		dialChat(t, "tcp", serve(t, s)).say(request).hear("HTTP/1.1 100 Continue\r\n\r\n").say("body").
			hear("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n")
	})
	t.Run("the origin does not", func(t *testing.T) {
		dial, requests := rawOrigin(t, func(string) string {
			return "HTTP/1.1 417 Expectation Failed\r\nDate: d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
		})
		dialChat(t, "tcp", serve(t, &Server{Dial: dial})).say(request).hear("HTTP/1.1 417 Expectation Failed\r\n")
		if got := <-requests; !strings.Contains(got, "Expect: 100-continue\r\n") {
			t.Errorf("origin heard %q", got)
		}
	})
}

func TestKeepAlive(t *testing.T) {
	var dials recorder
	dials.next, _ = rawOrigin(t, respondOK)
	c := dialChat(t, "tcp", serve(t, &Server{Dial: dials.dial}))
	r := bufio.NewReader(c)
	for range 5 {
		c.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
	}
	if len(dials.addrs) != 1 {
		t.Errorf("dialled %v, want once", dials.addrs)
	}
	// Pipelined requests are answered in order.
	c.say(strings.Repeat("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n", 3))
	for range 3 {
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v, %v", res, err)
		} else {
			io.Copy(io.Discard, res.Body)
		}
	}
}

func TestUpgrade(t *testing.T) {
	const request = "GET http://web/ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Proxy-Connection: Upgrade\r\n\r\n"
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial}
	client := dialChat(t, "tcp", serve(t, s)).say(request + "early")
	peer := tg.accept()
	peer.hear("GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nProxy-X: 1\r\n\r\nhello")
	client.hear("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
	peer.hear("early")
	client.say("ping").finish()
	peer.hear("ping").wantEnd()
	peer.say("pong").finish()
	client.hear("pong").wantEnd()
	eventually(t, "the tunnel is closed", func() bool { return s.Stats().OpenConnections == 0 })
}

func TestUpgradeRefusedOrWrong(t *testing.T) {
	const request = "GET http://web/ HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	dial, _ := rawOrigin(t, func(string) string {
		return "HTTP/1.1 426 Upgrade Required\r\nDate: d\r\nContent-Length: 2\r\n\r\nno"
	})
	dialChat(t, "tcp", serve(t, &Server{Dial: dial})).say(request).
		hear("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\nDate: d\r\n\r\nno").
		say(request).hear("HTTP/1.1 426 Upgrade Required\r\n")
	dial, _ = rawOrigin(t, func(string) string {
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"
	})
	wantResponse(t, dialChat(t, "tcp", serve(t, &Server{Dial: dial})).say(request), 502,
		"reaching web: switching to a protocol that was not asked for\n")
}

func TestMaxForwards(t *testing.T) {
	addr := serve(t, &Server{Dial: dialFail(io.EOF)})
	const rest = " http://web/ HTTP/1.1\r\nHost: web\r\nMax-Forwards: 0\r\n\r\n"
	res := readResponse(t, dialChat(t, "tcp", addr).say("OPTIONS"+rest), "OPTIONS")
	if res.StatusCode != 200 {
		t.Errorf("OPTIONS: status %d", res.StatusCode)
	}
	wantResponse(t, dialChat(t, "tcp", addr).say("TRACE"+rest), 405, "TRACE is not supported by this proxy\n")
}

func TestRequestsThatCannotBeForwarded(t *testing.T) {
	addr := serve(t, &Server{Dial: dialEcho})
	const wrongScheme = "Only http:// URLs can be asked for; for anything else use CONNECT\n"
	for _, tt := range []struct{ say, want string }{
		{"GET https://web/ HTTP/1.1\r\nHost: web\r\n\r\n", wrongScheme},
		{"GET ftp://web/ HTTP/1.1\r\nHost: web\r\n\r\n", wrongScheme},
		{"GET http:///path HTTP/1.1\r\nHost: web\r\n\r\n", wrongScheme},
		{"CONNECT web HTTP/1.1\r\nHost: web\r\n\r\n", "CONNECT needs host:port\n"},
		{"CONNECT :80 HTTP/1.1\r\nHost: web\r\n\r\n", "CONNECT needs host:port\n"},
		{"CONNECT web:65536 HTTP/1.1\r\nHost: web\r\n\r\n", "CONNECT needs host:port\n"},
	} {
		wantResponse(t, dialChat(t, "tcp", addr).say(tt.say), 400, tt.want)
	}
}

// The response to a request that net/http refuses says what is wrong, for the first request on a
// connection, for a long one, and for a later one.
func TestMalformedRequestIsExplained(t *testing.T) {
	addr := serve(t, &Server{Dial: dialEcho})
	long := "X-Long: " + strings.Repeat("x", 3*sniffSize) + "\r\n"
	before := "GET http:///path HTTP/1.1\r\nHost: web\r\n\r\n"
	for _, tt := range []struct{ say, want string }{
		{"GET http://web/% HTTP/1.1\r\nHost: web\r\n\r\n", `parse "http://web/%": invalid URL escape "%"`},
		{"GET http://web/% HTTP/1.1\r\nHost: web\r\n" + long + "\r\n", `parse "http://web/%": invalid URL escape "%"`},
		{"CONNECT web:http HTTP/1.1\r\nHost: web\r\n\r\n", `parse "http://web:http": invalid port ":http" after host`},
		{"GET http://web/ HTTP/1.1\r\nHost: web\r\nno colon here\r\n\r\n",
			`malformed MIME header: missing colon: "no colon here"`},
		{"GET http://web/\r\n\r\n", `malformed HTTP request "GET http://web/"`},
	} {
		wantResponse(t, dialChat(t, "tcp", addr).say(tt.say), 400, "400 Bad Request: "+tt.want+"\n")
		c := dialChat(t, "tcp", addr).say(before)
		wantResponse(t, c, 400, "Only http:// URLs can be asked for; for anything else use CONNECT\n")
		res := readResponse(t, c.say(tt.say), "GET")
		got, _ := io.ReadAll(res.Body)
		if want := strings.TrimPrefix(tt.want, "malformed HTTP request \"G"); !strings.Contains(string(got), want) {
			t.Errorf("as a second request: got %q, want %q", got, want)
		}
	}
}

// The response to the client says what is wrong with a malformed response of the origin.
func TestMalformedResponseIsExplained(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
	client.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
	peer := tg.accept()
	peer.hear("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	peer.say("HTTP/1.1 200 OK\r\nno colon here\r\n\r\n")
	wantResponse(t, client, 502, "reaching web: net/http: HTTP/1.x transport connection broken: "+
		"malformed MIME header: missing colon: \"no colon here\"\n")
}

// If the origin's response is cut off, so is the response to the client: it does not end in order.
func TestResponseCutShort(t *testing.T) {
	for name, head := range map[string]string{"length": "Content-Length: 100", "chunks": "Transfer-Encoding: chunked"} {
		t.Run(name, func(t *testing.T) {
			tg := newTarget(t, "tcp")
			client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial})).say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
			peer := tg.accept()
			peer.hear("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
			peer.say("HTTP/1.1 200 OK\r\n" + head + "\r\n\r\n5\r\nstart\r\n").Close()
			res := readResponse(t, client, "GET")
			if got, err := io.ReadAll(res.Body); err == nil || res.StatusCode != 200 {
				t.Errorf("got %d %q, and an orderly end", res.StatusCode, got)
			}
		})
	}
}

// If the origin's response is cut off while the client still sends, the client is disconnected at
// once.
func TestResponseCutShortDuringRequest(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial, HandshakeTimeout: time.Hour}))
	client.say("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nstart")
	peer := tg.accept()
	peer.hear("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nstart")
	peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart").Close()
	discardAll(client)
}

// If the client disconnects during a response, the request to the origin is cancelled.
func TestClientClosesDuringResponse(t *testing.T) {
	done := make(chan struct{})
	s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(done)
	})}
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
	if _, err := httpClient(t, serve(t, s), nil).Do(req); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
}

// An origin may respond before it has received the whole request. Both directions go on at once.
func TestFullDuplex(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
	client.say("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nfirst")
	peer := tg.accept()
	peer.hear("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nfirst")
	peer.say("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 10\r\n\r\nearly")
	client.hear("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nDate: d\r\n\r\nearly")
	client.say("later")
	peer.hear("later").say("reply")
	client.hear("reply")
}

// After the response, the rest of a request is waited for no longer than HandshakeTimeout.
func TestRestOfRequest(t *testing.T) {
	for name, request := range map[string]string{
		"page": "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nstart",
		"origin": "POST http://early/ HTTP/1.1\r\nHost: web\r\nProxy-Authorization: " + annBasic + "\r\n" +
			"Content-Length: 10\r\n\r\nstart",
		"password": "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nstart",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln, s := newMemListener(), &Server{Dial: dialEarly, Auth: annOnly}
				go s.Serve(ln)
				defer s.Close()
				client := ln.dial()
				begun := time.Now()
				go io.WriteString(client, request)
				if answer, _ := io.ReadAll(client); !strings.HasPrefix(string(answer), "HTTP/1.1 40") {
					t.Errorf("got %q", answer)
				}
				if took := time.Since(begun); took > 10*time.Second+lingerTime {
					t.Errorf("lasted %v", took)
				}
				client.Close()
			})
		})
	}
}

// dialEarly is a Dial to an origin that responds before it has read the whole request.
func dialEarly(context.Context, string, string) (net.Conn, error) {
	near, far := memPipe()
	go func() {
		io.ReadFull(far, make([]byte, len("POST /")))
		go io.Copy(io.Discard, far)
		io.WriteString(far, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	}()
	return near, nil
}

// A slow origin slows down the client's upload, and a slow client the origin's response.
func TestAbsoluteBackpressure(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
	client.say("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000000\r\n\r\n")
	peer := tg.accept()
	peer.hear("POST / HTTP/1.1\r\n").say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
	for name, c := range map[string]*chat{"client": client, "origin": peer} {
		c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := io.CopyN(c, zeros{}, 900_000_000); err == nil {
			t.Errorf("%d bytes were taken from the %s while nobody read", n, name)
		}
	}
}
