package server

import (
	"net/http/httptest"
	"strings"
	"testing"

	"ginnel/control"
	"ginnel/control/store"
)

// If a relay's certificate is pinned, clients that cannot check the pin are refused with a reason,
// instead of joining and reaching no relay.
func TestOldClientsAndPinnedRelays(t *testing.T) {
	relays := func(certName string) *control.DERPMap {
		return &control.DERPMap{Regions: map[int]*control.DERPRegion{900: {Nodes: []*control.DERPNode{{CertName: certName}}}}}
	}
	for _, tt := range []struct {
		certName string
		version  int
		want     string // part of the refusal; empty: the client is served
	}{
		{"", control.MinCapabilityVersion, ""},
		{"relay.example", control.MinCapabilityVersion, ""},
		{"", control.MinCapabilityVersion - 1, "client speaks capability version 112, this server version 113 and later\n"},
		{"sha256-raw:00", pinVersion, ""},
		{"sha256-raw:00", pinVersion - 1, "this server version 116 and later (the certificate of a relay is pinned"},
		{"sha256-raw:00", control.MinCapabilityVersion - 1, "this server version 116 and later\n"},
	} {
		var v versionCheck
		v.setRelays(relays("sha256-raw:00"))
		v.setRelays(relays(tt.certName)) // the latest call counts
		w := httptest.NewRecorder()
		switch ok := v.supported(w, tt.version); {
		case ok != (tt.want == ""):
			t.Errorf("version %d with CertName %q: %v", tt.version, tt.certName, ok)
		case !ok && (w.Code != 400 || !strings.Contains(w.Body.String(), tt.want)):
			t.Errorf("version %d with CertName %q: %d %q, want %q", tt.version, tt.certName, w.Code, w.Body, tt.want)
		}
	}
}

// GET /key checks the client's version against the current relay map.
func TestKeyForOldClients(t *testing.T) {
	pinned := control.DERPMap{Regions: map[int]*control.DERPRegion{
		900: {RegionID: 900, Nodes: []*control.DERPNode{{CertName: "sha256-raw:00"}}},
	}}
	s, err := New(Config{Store: store.NewMemory(), URL: testURL, BaseDomain: "net.test", DERPMap: pinned})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func() int {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/key?v=113", nil))
		return w.Code
	}
	if got := ask(); got != 400 {
		t.Errorf("with a pinned relay: %d, want 400", got)
	}
	if err := s.SetDERPMap(t.Context(), control.DERPMap{}); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != 200 {
		t.Errorf("without one: %d, want 200", got)
	}
}
