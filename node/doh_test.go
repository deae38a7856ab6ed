package node

import (
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// A nameserver with a URL is asked over HTTPS, with the node's roots, at the addresses that the map
// has for its host. Errors name a server that does not answer as one.
func TestDoH(t *testing.T) {
	asked := countHostQuestions(t)
	reply := func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil && r.URL.Path == "/dns-query" && r.ProtoMajor == 2 {
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			w.Write(answer(b, map[string][]netip.Addr{"db.example.": single4(3)}))
		}
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(reply))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	at, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	server := "https://" + net.JoinHostPort("example.com", at.Port()) // which the certificate is for
	for what, c := range map[string]struct {
		roots *x509.CertPool
		path  string
		want  string // part of the error; empty: there is none
	}{
		"as it should": {roots, "/dns-query", ""},
		"other path":   {roots, "/", "the server answers 200 OK and the content type"},
		"other roots":  {x509.NewCertPool(), "/dns-query", "certificate"},
	} {
		a, _ := two(t, func(cfg *Config) { cfg.Roots = c.roots })
		m := a.netmap(false)
		m.DNS = DNS{
			Servers:   []Nameserver{{URL: server + c.path}},
			Bootstrap: map[string][]netip.Addr{"example.com": {netip.MustParseAddr("127.0.0.1")}},
		}
		if err := a.SetMap(m); err != nil {
			t.Fatal(err)
		}
		got, err := a.dialer.lookup(t.Context(), "db.example")
		switch {
		case c.want == "" && (err != nil || !slices.Equal(got, single4(3))):
			t.Errorf("%s: %v, %v", what, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), server)):
			t.Errorf("%s: %v, %v; want an error that names %s and has %q", what, got, err, server, c.want)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions to the host's resolver", n)
	}
}
