package service

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"testing"
)

func newRunner(t *testing.T) *Runner {
	t.Helper()
	return New(slog.New(slog.DiscardHandler))
}

// A listener that fails ends the server with its error. One that is closed is no failure.
func TestWait(t *testing.T) {
	r := newRunner(t)
	defer r.Close()
	failure := errors.New("the port is gone")
	r.Serve(func() error { return net.ErrClosed })
	r.Serve(func() error { return http.ErrServerClosed })
	r.Serve(func() error { return failure })
	if err := r.Wait(t.Context()); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
}

// Close ends HTTP servers, and then what was opened, the last first.
func TestCloseOrder(t *testing.T) {
	r := newRunner(t)
	var closed []string
	for _, name := range []string{"store", "server", "relay"} {
		r.CloseLater(func() { closed = append(closed, name) })
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.ServeHTTPOn(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	resp, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r.Close()
	if want := []string{"relay", "server", "store"}; !slices.Equal(closed, want) {
		t.Errorf("closed %v, want %v", closed, want)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is open after Close")
	}
}

// There is one way to a certificate at most, and a port that is none stays closed.
func TestOptions(t *testing.T) {
	for _, test := range []struct {
		options Options
		good    bool
	}{
		{Options{}, true},
		{Options{Plain: true}, true},
		{Options{Cert: "c", Key: "k"}, true},
		{Options{ACME: true, ACMEEmail: "a@example.com"}, true},
		{Options{Cert: "c"}, false},
		{Options{Cert: "c", Key: "k", Plain: true}, false},
		{Options{ACME: true, Plain: true}, false},
		{Options{ACMEEmail: "a@example.com"}, false},
	} {
		if err := test.options.CheckCertificate(); (err == nil) != test.good {
			t.Errorf("%+v: %v", test.options, err)
		}
	}
	o := Options{Listen: "443", STUN: "none", Metrics: "none"}
	if err := o.CheckAddrs(); err != nil || o.Listen != ":443" || o.STUN != "none" || o.Metrics != "none" {
		t.Errorf("%+v, %v", o, err)
	}
	if o.STUN = "host"; o.CheckAddrs() == nil {
		t.Error("an address without a port is taken")
	}
	r := newRunner(t)
	defer r.Close()
	if err := r.ListenHTTP("metrics", "none", nil); err != nil {
		t.Error(err)
	}
}
