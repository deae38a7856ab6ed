package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// Section 6.2, with the request and the answer of the vectors. Only an explicit permission admits a
// client. A controller that cannot be reached admits it too, unless AdmissionStrict is set.
func TestServerAdmission(t *testing.T) {
	f := relaytest.LoadVectors(t)
	var body []byte
	status, answer := http.StatusOK, string(f.Find(t, "admission_response_allow"))
	controller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ = io.ReadAll(req.Body)
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	defer controller.Close()
	client, source := f.Public(t, "client"), netip.MustParseAddr("203.0.113.7")
	s := newTestServer(t, Config{AdmissionURL: controller.URL})
	if err := s.checkAdmission(client, source); err != nil {
		t.Errorf("allowed client refused: %v", err)
	}
	if want := f.Find(t, "admission_request_body"); !bytes.Equal(body, want) {
		t.Errorf("request %s, want %s", body, want)
	}
	s.checkAdmission(client, netip.Addr{})
	if !bytes.Contains(body, []byte(`"Source":""`)) {
		t.Errorf("unknown source: %s", body)
	}
	for _, c := range []struct {
		status int
		answer string
	}{
		{200, `{"Allow":false}`}, {200, `{}`}, {200, `nonsense`}, {201, `{"Allow":true}`}, {500, `{"Allow":true}`},
		{200, `{"Pad":"` + strings.Repeat(" ", maxAdmissionAnswer) + `","Allow":true}`},
	} {
		status, answer = c.status, c.answer
		if err := s.checkAdmission(client, source); err == nil {
			t.Errorf("admitted by %d %.40s", c.status, c.answer)
		}
	}
	controller.Close()
	if err := s.checkAdmission(client, source); err != nil {
		t.Errorf("controller away: %v, want to be admitted", err)
	}
	strict := newTestServer(t, Config{AdmissionURL: controller.URL, AdmissionStrict: true})
	if err := strict.checkAdmission(client, source); err == nil {
		t.Error("controller away: admitted although the server is strict")
	}
}

// A refused client gets no frame, a mesh peer is not asked about, and closing the server does not
// wait for the controller.
func TestServerAdmissionInLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 10)
		allow := true
		transport := relaytest.RoundTripper(func(req *http.Request) (*http.Response, error) {
			var body admissionRequest
			json.NewDecoder(req.Body).Decode(&body)
			asked <- body.Source.String()
			if !allow {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"Allow":false}`))}, nil
		})
		r := startMemRelay(t, Config{AdmissionURL: "http://controller.example", AdmissionStrict: true,
			MeshKey:    testMeshKey,
			HTTPClient: &http.Client{Transport: transport}})
		r.Net.SetClient(netip.MustParseAddr("203.0.113.7"))
		r.MeshClient().Ping()
		p := r.Dial()
		p.Upgrade(r.public, "")
		shared, _ := p.Key.Shared(r.public)
		p.Write(derp.AppendClientInfo(nil, p.Public(), shared, derp.ClientInfo{}))
		p.WantClosed()
		if got := <-asked; got != "203.0.113.7" {
			t.Errorf("asked about %s", got)
		}
		r.wantMetric(t, `ginnel_relay_refused_connections_total{reason="admission"}`, 1)

		allow = false // and no answer either
		p = r.Dial()
		p.Upgrade(r.public, "")
		shared, _ = p.Key.Shared(r.public)
		p.Write(derp.AppendClientInfo(nil, p.Public(), shared, derp.ClientInfo{}))
		synctest.Wait()
		start := time.Now()
		r.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("closing waited %v for the controller", d)
		}
	})
}

// Revoke disconnects a client, also one whose login is in progress.
func TestRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		allow, meanwhile := true, func() {}
		transport := relaytest.RoundTripper(func(*http.Request) (*http.Response, error) {
			answer := fmt.Sprintf(`{"Allow":%v}`, allow)
			meanwhile()
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(answer))}, nil
		})
		r := startMemRelay(t, Config{AdmissionURL: "http://controller.example", AdmissionStrict: true,
			MeshKey:    testMeshKey,
			HTTPClient: &http.Client{Transport: transport}})
		trusted, revoked, other := r.MeshClient(), r.Client(), r.Client()
		r.Revoke(revoked.Public())
		r.Revoke(trusted.Public())
		revoked.WantClosed()
		other.Ping()
		trusted.Ping()
		late := r.Dial()
		meanwhile = func() {
			allow, meanwhile = false, func() {}
			r.Revoke(late.Public())
		}
		late.Upgrade(r.public, "")
		shared, _ := late.Key.Shared(r.public)
		late.Write(derp.AppendClientInfo(nil, late.Public(), shared, derp.ClientInfo{}))
		late.WantClosed()
		synctest.Wait()
		r.wantMetric(t, `ginnel_relay_clients{where="local"}`, 2)
		allow = true
		r.Client().Ping()
	})
}
