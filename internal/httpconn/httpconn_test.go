package httpconn

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A request goes over the connection that was given, whatever host its URL names. A second
// connection is refused.
func TestDialOnce(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tr := &http.Transport{DialContext: DialOnce(conn), DisableKeepAlives: true}
	client := &http.Client{Transport: tr}

	resp, err := client.Get("http://name.invalid/")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("got status %d, want the server's %d", resp.StatusCode, http.StatusNotFound)
	}
	if _, err := client.Get("http://name.invalid/"); !errors.Is(err, errSecondDial) {
		t.Errorf("second connection: got %v, want %v", err, errSecondDial)
	}
}
