package programs

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"ginnel/control"
	"ginnel/control/server"
	"ginnel/control/store"
)

// ourServer is our coordination server, in this process.
type ourServer struct {
	port  uint16
	file  string
	relay *relayProgram

	store *store.Bolt
	srv   *server.Server
	http  *http.Server
	donec chan struct{}
}

// startOurServer starts a server with a network of one user that has one relay.
func startOurServer(t *testing.T, r *relayProgram) *ourServer {
	t.Helper()
	s := &ourServer{port: freeTCPPort(t), file: filepath.Join(t.TempDir(), "control.db"), relay: r}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	if _, err := s.srv.CreateUser(t.Context(), "ann", ""); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *ourServer) url() string { return "http://" + hubAddr(s.port) }

func (s *ourServer) start(t *testing.T) {
	t.Helper()
	var err error
	if s.store, err = store.Open(s.file); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", "server")
	s.srv, err = server.New(server.Config{Store: s.store, URL: s.url(), BaseDomain: baseDomain, DERPMap: s.derpMap(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", hubAddr(s.port))
	if err != nil {
		t.Fatal(err)
	}
	s.http, s.donec = &http.Server{Handler: s.srv}, make(chan struct{})
	go func() {
		defer close(s.donec)
		s.http.Serve(ln)
	}()
}

func (s *ourServer) stop(t *testing.T) {
	t.Helper()
	s.http.Close()
	<-s.donec
	for _, err := range []error{s.srv.Close(), s.store.Close()} {
		if err != nil {
			t.Error(err)
		}
	}
}

func (s *ourServer) derpMap() control.DERPMap {
	n := &control.DERPNode{Name: "1a", RegionID: regionID, HostName: hub.String(), CertName: s.relay.pin, IPv4: hub.String(), IPv6: "none",
		DERPPort: int(s.relay.port), STUNPort: int(s.relay.stun)}
	r := &control.DERPRegion{RegionID: regionID, RegionCode: regionCode, RegionName: "Test", Nodes: []*control.DERPNode{n}}
	return control.DERPMap{Regions: map[int]*control.DERPRegion{regionID: r}}
}

func (s *ourServer) authKey(t *testing.T) string {
	t.Helper()
	k, err := s.srv.CreateAuthKey(t.Context(), server.AuthKeyRequest{User: "ann", Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	return k.Key
}

func (s *ourServer) members(t *testing.T) map[string]bool {
	t.Helper()
	w := httptest.NewRecorder()
	s.srv.AdminHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil))
	var page server.Page[server.Node]
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		t.Fatalf("listing nodes: %v: %s", err, w.Body)
	}
	all := make(map[string]bool)
	for _, n := range page.Items {
		all[n.Name] = n.Online
	}
	return all
}

// TestServer proves that tailscaled joins our server, reaches a node of ours and another tailscaled by their names, over
// our relay and then directly, and that the tailscale command finds all as it should be.
func TestServer(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	alpha := newGinnel(t, newHost(t, "alpha"))
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.exchange()
	m.take("relay")
	checkCommands(t, beta, "relay")
	m.unlock(true)
	m.take("direct")
	m.exchange()
	m.take("direct")
	checkCommands(t, beta, "direct")
}

// TestServerSurvives proves that tailscaled and our node outlive restarts of our server, our relay and each other.
func TestServerSurvives(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	m.join(newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")))
	m.survive()
}
