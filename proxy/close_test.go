package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Close ends a connection in every stage, and all goroutines of the package.
func TestCloseDuring(t *testing.T) {
	started, ended := make(chan struct{}, 100), make(chan error, 100)
	hang := hangingDial(started, ended)
	answerSlowly, _ := rawOrigin(t, func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nstart" })
	silent, _ := rawOrigin(t, func(string) string { return "" })
	noReader := func(tg *target) dialFunc { return tg.dial }
	tests := []struct {
		name  string
		dial  dialFunc
		setUp func(c *chat)
	}{
		{"first byte", hang, func(c *chat) {}},
		{"SOCKS5 method", hang, func(c *chat) { c.send("05") }},
		{"SOCKS5 request", hang, func(c *chat) { c.send("05 01 00").want("05 00").send("05 01") }},
		{"SOCKS4 request", hang, func(c *chat) { c.send("04 01") }},
		{"HTTP head", hang, func(c *chat) { c.say("GET http://a/ HTTP/1.1\r\n") }},
		{"SOCKS5 dial", hang, func(c *chat) { c.say(requests["socks5"]); <-started }},
		{"SOCKS4 dial", hang, func(c *chat) { c.say(requests["socks4"]); <-started }},
		{"CONNECT dial", hang, func(c *chat) { c.say(requests["connect"]); <-started }},
		{"CONNECT dial, data ahead", hang, func(c *chat) { c.say(requests["connect"] + "ahead"); <-started }},
		{"CONNECT dial, half-closed with data ahead", hang, func(c *chat) {
			c.say(requests["connect"] + "ahead").finish()
			<-started
		}},
		{"absolute-form dial", hang, func(c *chat) { c.say(requests["absolute"]); <-started }},
		{"lingering close", dialFail(io.EOF), func(c *chat) { c.say(requests["socks4"]).want("00 5b 00 00 00 00 00 00") }},
		{"idle SOCKS5 tunnel", dialEcho, openers["socks5"]},
		{"idle CONNECT tunnel", noReader(newTarget(t, "tcp")), openers["connect"]},
		{"half-closed tunnel", noReader(newTarget(t, "tcp")), func(c *chat) { openers["connect"](c); c.finish() }},
		{"blocked tunnel", noReader(newTarget(t, "tcp")), func(c *chat) { openers["socks5"](c); fill(c) }},
		{"blocked tunnel in memory", func(context.Context, string, string) (net.Conn, error) {
			near, _ := memPipe()
			return near, nil
		}, func(c *chat) { openers["socks5"](c); fill(c) }},
		{"waiting for a response", silent, func(c *chat) { c.say(requests["absolute"]) }},
		{"half-way through a response", answerSlowly, func(c *chat) {
			c.say(requests["absolute"]).hear("HTTP/1.1 200 OK\r\n")
		}},
		{"half-way through a request", silent, func(c *chat) {
			c.say("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nstart")
		}},
		{"between requests", dialEcho, func(c *chat) {
			c.say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").hear("HTTP/1.1 404 Not Found\r\n")
		}},
		{"UDP association", hang, func(c *chat) { openUDP(c) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &Server{Dial: tt.dial, ListenPacket: listenPacket}
			ln := listen(t)
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			c := dialChat(t, "tcp", ln.Addr().String())
			eventually(t, "accepted", func() bool { return s.Stats().OpenConnections == 1 })
			tt.setUp(c)
			begun := time.Now()
			s.Close()
			if took := time.Since(begun); took > lingerTime {
				t.Errorf("Close took %v", took)
			}
			<-served
			left := goroutines("ginnel/proxy.(*Server", "ginnel/proxy.(*conn)", "ginnel/proxy.(*tunnel",
				"ginnel/proxy.(*assoc", "ginnel/proxy.(*hangupWatch", "ginnel/proxy.(*httpProxy")
			if left != "" {
				t.Errorf("goroutines left behind:\n%s", left)
			}
			s.Close()
			discardAll(c)
		})
	}
}

// fill sends until a write blocks for 100 ms.
func fill(c *chat) {
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	io.Copy(c, strings.NewReader(strings.Repeat("x", 64<<20)))
}
