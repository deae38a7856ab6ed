package programs

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/net/netcheck"
)

// checkCommands checks what the tailscale command on beta shows of a mesh of alpha, beta and gamma.
func checkCommands(t *testing.T, beta *tailscaled, path string) {
	t.Helper()
	checkStatus(t, beta, path)
	checkStatusText(t, beta)
	checkNetcheck(t, beta)
	checkPings(t, beta)
}

// checkPings makes beta ping the others with TSMP and ICMP, which the peers answer inside the
// tunnel.
func checkPings(t *testing.T, beta *tailscaled) {
	t.Helper()
	for _, peer := range []string{"alpha", "gamma"} {
		for _, kind := range []string{"--tsmp", "--icmp"} {
			if out, err := try(beta.cli("ping", kind, "-c", "1", "--timeout", "5s", peer)); err != nil ||
				!strings.Contains(out, "pong from "+peer) {
				t.Errorf("tailscale ping %s %s: %v\n%s", kind, peer, err, indent(out))
			}
		}
	}
}

// checkDebugDERP checks the report of 'tailscale debug derp' on the relay in the server's own
// process. The command tries both address families of every relay, so it reports one error for a
// relay whose host is an IPv4 address.
func checkDebugDERP(t *testing.T, beta *tailscaled) {
	t.Helper()
	out := run(t, beta.cli("debug", "derp", "900"))
	var report ipnstate.DebugDERPRegionReport
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Errors) != 1 ||
		!strings.HasSuffix(report.Errors[0], "over IPv6: dial tcp6: address "+hub.String()+": no suitable address found") {
		t.Errorf("tailscale debug derp reports the errors %q, want only that the relay has no IPv6", report.Errors)
	}
	for _, found := range []string{"Successfully established a DERP connection", "returned IPv4 STUN response"} {
		if !strings.Contains(strings.Join(report.Info, "\n"), found) {
			t.Errorf("tailscale debug derp says %q, want %q in it", report.Info, found)
		}
	}
}

// checkStatus checks the JSON of 'tailscale status'.
func checkStatus(t *testing.T, beta *tailscaled, path string) {
	t.Helper()
	s, err := beta.status()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Health) > 0 {
		t.Errorf("tailscale status: health: %q", s.Health)
	}
	net := s.CurrentTailnet
	if s.BackendState != "Running" || !s.HaveNodeKey || net == nil || net.MagicDNSSuffix != baseDomain ||
		!net.MagicDNSEnabled {
		t.Errorf("tailscale status: state %q, network %+v", s.BackendState, net)
	}
	self := s.Self
	if self.HostName != "beta" || self.DNSName != "beta."+baseDomain+"." || self.Relay != regionCode || !self.Online ||
		!self.InNetworkMap || len(self.TailscaleIPs) != 2 {
		t.Errorf("tailscale status: self is %+v", self)
	}
	if u := s.User[self.UserID]; u.LoginName != "ann" {
		t.Errorf("tailscale status: the user is %+v", u)
	}
	var names []string
	for _, p := range s.Peer {
		names = append(names, p.HostName)
		if p.DNSName != p.HostName+"."+baseDomain+"." || p.Relay != regionCode || !p.Online || !p.InNetworkMap ||
			!p.InEngine || !p.Active || p.OS != "linux" ||
			p.UserID != self.UserID || len(p.TailscaleIPs) != 2 || p.RxBytes < bulk ||
			p.LastHandshake.IsZero() {
			t.Errorf("tailscale status: peer is %+v", p)
		}
		if direct := p.CurAddr != ""; direct != (path == "direct") {
			t.Errorf("tailscale status: the direct address of %s is %q on path %s", p.HostName, p.CurAddr, path)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"alpha", "gamma"}) {
		t.Errorf("tailscale status: peers are %q", names)
	}
}

// checkStatusText checks the text of 'tailscale status': one line for each node, and no warnings.
func checkStatusText(t *testing.T, beta *tailscaled) {
	t.Helper()
	out := run(t, beta.cli("status"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 || strings.Contains(out, "offline") {
		t.Errorf("tailscale status:\n%s", indent(out))
	}
	for _, l := range lines {
		if f := strings.Fields(l); len(f) < 5 || !strings.HasPrefix(f[0], "100.") ||
			!slices.Contains([]string{"alpha", "beta", "gamma"}, f[1]) ||
			!strings.HasPrefix(f[2], "ann") || f[3] != "linux" {
			t.Errorf("tailscale status: line %q", l)
		}
	}
}

// checkNetcheck checks the network report that tailscaled makes with the relay and its STUN server.
func checkNetcheck(t *testing.T, beta *tailscaled) {
	t.Helper()
	out := run(t, beta.cli("netcheck", "--format", "json"))
	var r netcheck.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("tailscale netcheck: %v\n%s", err, indent(out))
	}
	if !r.UDP || !r.IPv4 || r.GlobalV4.Addr() != beta.host.addr || r.PreferredDERP != regionID ||
		len(r.RegionLatency) != 1 || r.RegionLatency[regionID] <= 0 {
		t.Errorf("tailscale netcheck:\n%s", indent(out))
	}
	text := run(t, beta.cli("netcheck"))
	for _, want := range []string{"* UDP: true", "* IPv4: yes, " + beta.host.addr.String(), "* Nearest DERP: Test",
		"- " + regionCode + ": "} {
		if !strings.Contains(text, want) {
			t.Errorf("tailscale netcheck does not say %q:\n%s", want, indent(text))
		}
	}
}
