package proxy

import (
	"net/http"
	"testing"
)

// If an origin closes a reused connection while a request is on its way, in order or with a reset,
// the request is sent again (RFC 9110 section 9.2.2). The client does not notice.
func TestReusedConnectionClosed(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE", "PUT"} {
		for how, closeConn := range map[string]func(*chat){"close": func(c *chat) { c.Close() }, "reset": reset} {
			tg := newTarget(t, "tcp")
			client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
			client.say("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n")
			origin := tg.accept()
			origin.hear("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n").say("HTTP/1.1 204 No Content\r\n\r\n")
			readResponse(t, client, "GET")
			length := ""
			if method == "PUT" {
				length = "Content-Length: 0\r\n"
			}
			client.say(method + " http://web/2 HTTP/1.1\r\nHost: web\r\n" + length + "\r\n")
			origin.hear(method + " /2 HTTP/1.1\r\n")
			closeConn(origin)
			again := tg.accept()
			again.hear(method + " /2 HTTP/1.1\r\nHost: web\r\n" + length + "\r\n").say("HTTP/1.1 204 No Content\r\n\r\n")
			if res := readResponse(t, client, method); res.StatusCode != http.StatusNoContent {
				t.Errorf("%s, %s: status %d", method, how, res.StatusCode)
			}
		}
	}
}

// The body of a request that waits for 100 (Continue) was not read, so the request is sent again.
func TestReusedConnectionClosedBeforeContinue(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
	client.say("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n")
	origin := tg.accept()
	origin.hear("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n").say("HTTP/1.1 204 No Content\r\n\r\n")
	readResponse(t, client, "GET")
	head := "PUT /2 HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	client.say("PUT http://web/2 HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	origin.hear(head)
	origin.Close()
	again := tg.accept()
	again.hear(head).say("HTTP/1.1 100 Continue\r\n\r\n")
	client.hear("HTTP/1.1 100 Continue\r\n\r\n").say("body")
	again.hear("body").say("HTTP/1.1 204 No Content\r\n\r\n")
	if res := readResponse(t, client, "PUT"); res.StatusCode != http.StatusNoContent {
		t.Errorf("status %d", res.StatusCode)
	}
}

// A request is not sent again if its method is not idempotent, if its body was read, if a response
// has begun, or if its connection was new.
func TestNoRetry(t *testing.T) {
	for _, c := range []struct{ what, request, sent string }{
		{"a POST", "POST http://web/2 HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n",
			"POST /2 HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n"},
		{"a body", "PUT http://web/2 HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody",
			"PUT /2 HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody"},
		{"an answer that has begun", "GET http://web/2 HTTP/1.1\r\nHost: web\r\n\r\n", ""},
		{"a new connection", "GET http://other/2 HTTP/1.1\r\nHost: other\r\n\r\n", "GET /2 HTTP/1.1\r\nHost: other\r\n\r\n"},
	} {
		tg := newTarget(t, "tcp")
		client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
		client.say("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n")
		origin := tg.accept()
		origin.hear("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n").say("HTTP/1.1 204 No Content\r\n\r\n")
		readResponse(t, client, "GET")
		client.say(c.request)
		if c.what == "a new connection" {
			origin = tg.accept()
		}
		if c.sent == "" {
			origin.hear("GET /2 HTTP/1.1\r\nHost: web\r\n\r\n").say("HTTP/1.1 2")
		}
		origin.hear(c.sent)
		origin.Close()
		if res := readResponse(t, client, "GET"); res.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: status %d, want 502", c.what, res.StatusCode)
		}
	}
}
