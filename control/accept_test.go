package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"ginnel/key"
)

// A request that is not an upgrade is answered with 400.
func TestAcceptRefuses(t *testing.T) {
	server := key.NewMachinePrivate()
	_, msg, err := initiate(key.NewMachinePrivate(), server.Public(), CapabilityVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := base64.StdEncoding.EncodeToString(msg[:])
	for _, c := range []struct {
		name, method, upgrade, header string
	}{
		{"no upgrade", "POST", "", good},
		{"another upgrade", "POST", "h2c", good},
		{"GET", "GET", upgradeProtocol, good},
		{"no handshake", "POST", upgradeProtocol, ""},
		{"no base64", "POST", upgradeProtocol, "!" + good[1:]},
		{"too long", "POST", upgradeProtocol, good + good},
		{"WebSocket without handshake", "GET", "websocket", good},
		{"not to be hijacked", "POST", upgradeProtocol, good},
	} {
		r := httptest.NewRequest(c.method, "/ts2021", nil)
		r.Header.Set("Upgrade", c.upgrade)
		r.Header.Set(headerHandshake, c.header)
		w := httptest.NewRecorder()
		if conn, err := Accept(t.Context(), w, r, AcceptConfig{Key: server}); err == nil || conn != nil ||
			w.Code != http.StatusBadRequest {
			t.Errorf("%s: got status %d, %v", c.name, w.Code, err)
		}
	}
	r := httptest.NewRequest("POST", "/ts2021", nil)
	r.ProtoMajor = 2
	r.Header.Set("Upgrade", upgradeProtocol)
	w := httptest.NewRecorder()
	if _, err := Accept(t.Context(), w, r, AcceptConfig{Key: server}); err == nil || w.Code != http.StatusBadRequest {
		t.Errorf("HTTP/2: got status %d, %v", w.Code, err)
	}
}

// acceptLoopback runs Accept for each request to a loopback listener and sends its results to the
// channels.
func acceptLoopback(t *testing.T, cfg AcceptConfig) (addr string, resultc <-chan error, connc <-chan *Conn) {
	t.Helper()
	errc, conns := make(chan error, 1), make(chan *Conn, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(r.Context(), w, r, cfg)
		if errc <- err; c != nil {
			conns <- c
		}
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), errc, conns
}

func TestAcceptTellsWhy(t *testing.T) {
	server := key.NewMachinePrivate()
	for _, c := range []struct {
		name    string
		server  key.MachinePublic
		version uint16
		spoil   int
		says    string
		check   func(error) bool
	}{
		{"old version", server.Public(), 112, -1, "client speaks capability version 112, this server version 113 and later",
			func(err error) bool {
				e, ok := errors.AsType[*VersionError](err)
				return ok && e.Version == 112 && e.Min == 113
			}},
		{"other key", key.NewMachinePrivate().Public(), 131, -1, refuseUnopenable, nil},
		{"damaged", server.Public(), 131, 90, refuseUnopenable, nil},
		{"wrong type", server.Public(), 131, 2, refuseUnknownFormat,
			func(err error) bool { return errors.Is(err, errInitiation) }},
	} {
		addr, resultc, _ := acceptLoopback(t, AcceptConfig{Key: server})
		i, msg, err := initiate(key.NewMachinePrivate(), c.server, c.version, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.spoil >= 0 {
			msg[c.spoil] ^= 2
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&opening{url: &url.URL{Scheme: "http", Host: addr}}).native(conn, i, msg[:])
		if frame, ok := errors.AsType[*errorFrame](err); !ok || frame.text != c.says {
			t.Errorf("%s: client got %v, want %q", c.name, err, c.says)
		}
		if err := <-resultc; err == nil || c.check != nil && !c.check(err) {
			t.Errorf("%s: server got %v", c.name, err)
		}
		conn.Close()
	}
}

// A channel opened by the native upgrade or by WebSocket carries data both ways, and each end knows
// the other's key.
func TestOpenAndAccept(t *testing.T) {
	for _, ws := range []bool{false, true} {
		server, machine := key.NewMachinePrivate(), key.NewMachinePrivate()
		addr, resultc, connc := acceptLoopback(t, AcceptConfig{Key: server})
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		o := &opening{url: &url.URL{Scheme: "http", Host: addr}, machine: machine, server: server.Public(),
			version: CapabilityVersion}
		open := o.open
		if ws {
			open = o.openWebSocket
		}
		client, err := open(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-resultc; err != nil {
			t.Fatal(err)
		}
		far := <-connc
		if far.Peer() != machine.Public() || client.Peer() != server.Public() || far.Version() != CapabilityVersion {
			t.Error("the ends do not agree")
		}
		text := strings.Repeat("over and out ", 10_000)
		for _, dir := range []struct{ from, to *Conn }{{client, far}, {far, client}} {
			go dir.from.Write([]byte(text))
			got := make([]byte, len(text))
			if _, err := io.ReadFull(dir.to, got); err != nil || string(got) != text {
				t.Errorf("WebSocket %v: %v", ws, err)
			}
		}
		client.Close()
		if n, err := far.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("after the other end closed: %d, %v", n, err)
		}
		far.Close()
	}
}

func TestOpenIsBounded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, b := net.Pipe()
	defer b.Close()
	o := &opening{url: mustURL(t, "http://localhost"), machine: key.NewMachinePrivate(),
		server: key.NewMachinePrivate().Public()}
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := o.open(ctx, a); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := a.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection was left open: %v", err)
	}
}

// The error for a rejected certificate says what to check.
func TestCertificateErrors(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	srv.Config.ErrorLog = nil
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	later := func() time.Time { return srv.Certificate().NotAfter.Add(time.Hour) }
	earlier := func() time.Time { return srv.Certificate().NotBefore.Add(-24 * time.Hour) }
	today := time.Now().UTC().Format("2006-01-")
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	for _, c := range []struct {
		name, url, says string
		tls             *tls.Config
	}{
		{"inspected", srv.URL, "TLS is inspected", nil},
		{"issuer", srv.URL, `"O=Acme Co" signed it, whom this machine does not trust`, nil},
		{"private authority", srv.URL, "--ca-file", nil},
		{"clock fast", srv.URL, later().UTC().Format(time.RFC3339) + ", which seems to be wrong: the server's says " + today,
			&tls.Config{RootCAs: roots, Time: later}},
		{"clock slow", srv.URL, "which seems to be wrong: the server's says " + today,
			&tls.Config{RootCAs: roots, Time: earlier}},
		{"name", "https://other.test", "another name than other.test", &tls.Config{RootCAs: roots}},
	} {
		client, err := NewClient(ClientConfig{URL: c.url, MachineKey: key.NewMachinePrivate(), TLS: c.tls, DialContext: dial})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Register(t.Context(), RegisterRequest{})
		if e, ok := errors.AsType[*CertificateError](err); !ok || !errors.Is(err, ErrUnreachable) ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v (%v)", c.name, err, e)
		} else {
			t.Log(err)
		}
		client.Close()
	}
	client, err := NewClient(ClientConfig{URL: srv.URL, MachineKey: key.NewMachinePrivate(),
		TLS: &tls.Config{RootCAs: roots}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Register(t.Context(), RegisterRequest{})
	if _, ok := errors.AsType[*CertificateError](err); ok || !errors.Is(err, ErrUnreachable) {
		t.Errorf("with its certificate: got %v", err)
	}
}

// A registration over TLS and real sockets.
func TestRegisterOverTLS(t *testing.T) {
	s := newTestServer(t)
	s.inner.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"MachineAuthorized":true}`)
	})
	s.start()
	srv := httptest.NewTLSServer(s.outer)
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c, err := NewClient(ClientConfig{URL: srv.URL, MachineKey: key.NewMachinePrivate(), TLS: &tls.Config{RootCAs: roots}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if resp, err := c.Register(t.Context(), RegisterRequest{}); err != nil || !resp.MachineAuthorized {
		t.Errorf("got %+v, %v", resp, err)
	}
}

func FuzzSwitch(f *testing.F) {
	v := vectors(f)
	f.Add([]byte(v.Upgrade.ResponseHead + string(v.Noise.Response)))
	f.Add([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		near, far := memConns()
		defer near.Close()
		far.Write(answer[:min(len(answer), 60<<10)])
		far.Close()
		i, msg, err := initiate(machineKey(t, v.Noise.Machine), key.MachinePublic(v.Noise.ControlPublic), 131, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&opening{url: mustURL(t, "http://localhost")}).native(near, i, msg[:]); err == nil {
			t.Error("a channel from nothing")
		}
	})
}

func FuzzUpgradeHeader(f *testing.F) {
	f.Add("AIMBAGBnXdV07XeJMQs9LnaB83kLRmx3OxUh")
	server := key.NewMachinePrivate()
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := decodeInitiation(text); err == nil {
			if _, _, err := admit(b, &AcceptConfig{Key: server}); err == nil {
				t.Error("accepted what was made for another server")
			}
		}
	})
}
