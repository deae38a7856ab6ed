package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// loginKey is the context key of the login of a connection to loginOrigin.
type loginKey struct{}

// loginOrigin is an origin server that authenticates connections, as with NTLM and Negotiate: a
// login takes two requests on one connection, and later requests on that connection belong to the
// user.
func loginOrigin(t *testing.T) dialFunc {
	type login struct{ challenged, user string }
	srv := &http.Server{
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, loginKey{}, new(login))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l := r.Context().Value(loginKey{}).(*login)
			step, user, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "NTLM "), " ")
			switch {
			case step == "begin":
				l.challenged = user
			case step == "prove" && l.challenged == user:
				l.user = user
			}
			if l.user == "" {
				w.Header().Set("WWW-Authenticate", "NTLM")
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			io.WriteString(w, "page of "+l.user)
		}),
	}
	ln := newMemListener()
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil }
}

// ask makes a request and returns the status and body of the response.
func (c *chat) ask(authorization string) (int, string) {
	c.t.Helper()
	header := ""
	if authorization != "" {
		header = "Authorization: NTLM " + authorization + "\r\n"
	}
	res := readResponse(c.t, c.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n"+header+"\r\n"), "GET")
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// A login at an origin belongs to the client connection that made it; requests of others do not use
// it.
func TestLoginStaysWithItsClient(t *testing.T) {
	addr := serve(t, &Server{Dial: loginOrigin(t)})
	clients, stranger := make([]*chat, 60), dialChat(t, "tcp", addr)
	user := func(n int) string { return fmt.Sprintf("user%d", n) }
	for n := range clients {
		clients[n] = dialChat(t, "tcp", addr)
		clients[n].ask("begin " + user(n))
	}
	for n, c := range clients {
		if code, body := c.ask("prove " + user(n)); code != http.StatusOK || body != "page of "+user(n) {
			t.Errorf("login of %s: %d %q", user(n), code, body)
		}
		if code, body := stranger.ask(""); code != http.StatusUnauthorized {
			t.Errorf("a client without a login got %d %q", code, body)
		}
	}
	for n, c := range clients {
		if _, body := c.ask(""); body != "page of "+user(n) {
			t.Errorf("second page of %s: %q", user(n), body)
		}
	}
}

// When a client disconnects, its idle connections to origin servers are closed.
func TestIdleOriginsCloseWithTheirClient(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
	client.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
	peer := tg.accept()
	peer.hear("GET / HTTP/1.1\r\nHost: web\r\n\r\n").say("HTTP/1.1 204 No Content\r\n\r\n")
	client.hear("HTTP/1.1 204 No Content\r\n")
	client.Close()
	peer.wantEnd()
}
