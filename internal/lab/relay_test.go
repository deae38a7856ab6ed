//go:build lab

package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ginnel/relay"
)

// relayRegion is the region ID that "ginnel relay serve" prints.
const relayRegion = 900

// relayServer is "ginnel relay serve" as nobody, with a self-signed certificate that clients pin.
type relayServer struct {
	*process
	ns    *netns
	args  []string
	state string
	node  relay.Node
}

// startRelay starts a relay whose host name is addr.
func startRelay(ns *netns, addr string, flags ...string) *relayServer {
	ns.t.Helper()
	r := &relayServer{ns: ns, state: newDir(ns.t, "relay")}
	r.args = append([]string{"relay", "serve", "--listen", ":8443", "--hostname", addr, "--state", r.state,
		"--log-level", "debug"}, flags...)
	r.start()
	ns.t.Cleanup(r.assertHidden)
	return r
}

// assertHidden checks that the relay has not printed its private key.
func (r *relayServer) assertHidden() {
	text, err := os.ReadFile(filepath.Join(r.state, "relay.key"))
	if err != nil {
		r.t.Error(err)
	}
	digits := regexp.MustCompile("[0-9a-f]{64}").FindString(string(text))
	if digits == "" || strings.Contains(r.out.String()+r.log.String(), digits) {
		r.t.Errorf("the relay shows its private key, or its file %q has none", text)
	}
}

// start starts the relay. If it has run before, it has the same keys.
func (r *relayServer) start() {
	t := r.ns.t
	t.Helper()
	p := r.ns.start("relay in "+r.ns.name, ginnelCommand(r.state, r.args...))
	t.Cleanup(func() { assertSound(t, p.name, p.out.String()+p.log.String()) })
	r.process = p
	_, text, _ := strings.Cut(p.await(&p.out, "DERP map node: ", dialTimeout), "DERP map node: ")
	if err := json.Unmarshal([]byte(text), &r.node); err != nil {
		t.Fatal(err)
	}
}

// relays returns a relay map with this relay only.
func (r *relayServer) relays() relay.Map {
	n := r.node
	return relay.Map{Regions: map[int]*relay.Region{relayRegion: {RegionID: relayRegion, RegionCode: "lab",
		RegionName: "Lab", Nodes: []*relay.Node{&n}}}}
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(fmt.Errorf("reading a page: %w", err))
	}
	return b
}
