//go:build lab

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ginnel/key"
)

// badFile is a wg-quick file that must not be accepted.
type badFile struct {
	name, text string
	want       []string // parts of the error, its position first
	secret     string   // part of a private key, which no output may repeat
}

func badFiles(private, public string) []badFile {
	iface := "[Interface]\nPrivateKey = " + private + "\nAddress = 10.77.0.2/32\n"
	peer := "[Peer]\nPublicKey = " + public + "\nAllowedIPs = 10.77.0.0/24\n"
	return []badFile{
		{name: "empty", text: "", want: []string{"empty.conf:1:1", "PrivateKey is missing"}},
		{name: "prose", text: "my vpn config", want: []string{"prose.conf:1:1"}},
		{name: "binary", text: "\x00\x01\xff\xfe" + iface, want: []string{"binary.conf"}},
		{name: "key too short", text: strings.Replace(iface, private, private[:43], 1) + peer,
			want: []string{":2:14", "43 characters"}, secret: private[:40]},
		{name: "key not base64", text: strings.Replace(iface, private, "!"+private[1:], 1) + peer,
			want: []string{":2:14", "base64"}, secret: private[1:40]},
		{name: "key as name", text: iface + private + " = x\n" + peer, want: []string{":4:"}, secret: private[:40]},
		{name: "key alone", text: iface + private[:43] + "\n" + peer, want: []string{":4:1"}, secret: private[:40]},
		{name: "unknown key", text: iface + "Colour = blue\n" + peer, want: []string{":4:1", `"Colour"`}},
		{name: "unknown section", text: iface + "[Pear]\n", want: []string{":4:1", `"Pear"`}},
		{name: "wrong section", text: iface + "Endpoint = 1.2.3.4:5\n" + peer, want: []string{":4:1", "belongs in [Peer]"}},
		{name: "bad address", text: strings.Replace(iface, "10.77.0.2/32", "10.77.0.256/32", 1) + peer,
			want: []string{":3:11", "10.77.0.256"}},
		{name: "bad prefix", text: iface + strings.Replace(peer, "/24", "/33", 1), want: []string{":6:14", "/33"}},
		{name: "bad endpoint", text: iface + peer + "Endpoint = gate.example\n", want: []string{":7:12", "gate.example"}},
		{name: "bad port", text: iface + "ListenPort = 65536\n" + peer, want: []string{":4:14", "65536"}},
		{name: "bad MTU", text: iface + "MTU = 9\n" + peer, want: []string{":4:7", `"9"`}},
		{name: "bad keepalive", text: iface + peer + "PersistentKeepalive = often\n", want: []string{":7:23", "often"}},
		{name: "two mistakes", text: iface + "MTU = x\n" + peer + "Endpoint = :1\n", want: []string{":4:7", ":8:12"}},
	}
}

// An invalid file is refused with the line and column of each mistake. Nothing is started, and no
// part of a private key is repeated.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	ns, dir := newNetns(t, "client"), newDir(t, "client")
	k := key.NewNodePrivate()
	for _, f := range badFiles(base64Of(k.Raw()), base64Of([key.Size]byte(k.Public()))) {
		path := writeFile(t, filepath.Join(dir, strings.ReplaceAll(f.name, " ", "-")+".conf"), f.text)
		start := time.Now()
		r := ns.run(ginnelCommand(dir, "up", "--wireguard", path), "")
		if r.status != 2 {
			t.Errorf("%s: status %d, want 2", f.name, r.status)
		}
		for _, w := range f.want {
			if !strings.Contains(r.stderr, w) {
				t.Errorf("%s: got %q, want %q in it", f.name, r.stderr, w)
			}
		}
		if f.secret != "" && strings.Contains(r.stdout+r.stderr, f.secret) {
			t.Errorf("%s: part of the private key is repeated: %q", f.name, r.stderr)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: took %v", f.name, took)
		}
		assertSound(t, f.name, r.stdout+r.stderr, k.Raw())
	}
}

// Invalid command lines and unreadable files are refused with a reason.
func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	ns, dir := newNetns(t, "client"), newDir(t, "client")
	good := writeFile(t, filepath.Join(dir, "good.conf"),
		"[Interface]\nPrivateKey = "+base64Of(key.NewNodePrivate().Raw())+"\nAddress = 10.77.0.2/32\n")
	private := filepath.Join(dir, "private.conf")
	if err := os.WriteFile(private, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	up := func(args ...string) []string { return append([]string{"up", "--wireguard", good}, args...) }
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, 2, "no command given"},
		{[]string{"upp"}, 2, `"upp"`},
		{[]string{"up"}, 2, "--wireguard FILE must be given"},
		{[]string{"up", "--wireguard", dir + "/nosuch.conf"}, 2, "nosuch.conf: no such file"},
		{[]string{"up", "--wireguard", dir}, 2, dir},
		{[]string{"up", "--wireguard", private}, 2, "permission denied"},
		{[]string{"up", "--wireguard", "/dev/zero"}, 2, "/dev/zero"},
		{[]string{"up", "--config", good}, 2, "good.conf"},
		{up("--colour"), 2, "--colour"},
		{up("extra"), 2, `"extra"`},
		{up("--proxy", "0.0.0.0:1080"), 2, "--proxy-auth USER:PASS must be given"},
		{up("--proxy", ":1080"), 2, "--proxy-auth USER:PASS must be given"},
		{up("--proxy", "1.2.3.4:99999"), 2, "99999"},
		{up("--proxy", "192.0.2.77:1080", "--proxy-auth", "me:secret"), 1, "cannot assign requested address"},
		{up("--proxy-auth", "nocolon"), 2, "--proxy-auth"},
		{up("--proxy-auth", "file:"+dir+"/nosuch"), 2, "no such file"},
		{up("-L", "8000"), 2, `"8000"`},
		{up("-L", "80:10.88.0.2:80"), 1, "permission denied"},
		{up("--serve", "0=80"), 2, `"0=80"`},
		{up("--serve", "80=80", "--serve", "80=81"), 2, "port 80/tcp of the mesh is given twice"},
		{up("--dial-timeout", "0s"), 2, "positive duration"},
		{up("--dial-timeout", "soon"), 2, "soon"},
		{up("--udp-port", "70000"), 2, "70000"},
		{up("--log-level", "loud"), 2, `"loud"`},
		{[]string{"relay", "serve", "--cert", "x"}, 2, "--cert and --key"},
		{[]string{"relay", "serve", "--state", dir, "--listen", ":443", "--stun", "none"}, 1, "permission denied"},
	} {
		r := ns.run(ginnelCommand(dir, c.args...), "")
		if r.status != c.status || !strings.Contains(r.stderr, c.want) {
			t.Errorf("ginnel %s: status %d, %q, want %d and %q", strings.Join(c.args, " "), r.status, r.stderr, c.status, c.want)
		}
		assertSound(t, "ginnel "+strings.Join(c.args, " "), r.stdout+r.stderr)
	}
	if left := ns.sockets(); len(left) > 0 {
		t.Errorf("sockets left: %q", left)
	}
}

// If the tunnel does not come up, a dial fails after --dial-timeout with an error that names the
// endpoint and what to check. The node itself keeps running, and ends when asked to.
func TestTunnelThatDoesNotComeUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.client.writeEtc("resolv.conf", "nameserver 127.0.0.1\n")
	wrongKey := stockPeer{key: key.NewNodePrivate()}
	for _, c := range []struct {
		name string
		file wgFile
		peer *stockPeer
		want string
	}{
		{"wrong key of the peer", wgFile{}, &wrongKey,
			"does not answer at " + endpoint4 + ": no WireGuard handshake yet; check its address, its key"},
		{"host that is not there", wgFile{endpoint: "203.0.113.77:51820"}, s.peer, "does not answer at 203.0.113.77:51820"},
		{"closed port", wgFile{endpoint: gateAddr4 + ":51821"}, s.peer,
			"does not answer at " + gateAddr4 + ":51821"},
		{"network without a route", wgFile{endpoint: "192.0.2.1:51820"}, s.peer, "does not answer at 192.0.2.1:51820"},
		{"name that does not exist", wgFile{endpoint: "nosuch.example:51820"}, s.peer, "its endpoint cannot be looked up"},
	} {
		site := *s
		site.peer = c.peer
		g := site.up(c.file, "--dial-timeout", "2s")
		s.nodes = site.nodes
		start := time.Now()
		_, err := s.client.viaConnect(defaultProxy, web(innerAddr4))
		assertRefused(t, c.name, err, "504", c.want)
		if took := time.Since(start); took < 1500*time.Millisecond || took > 5*time.Second {
			t.Errorf("%s: the dial failed after %v, want about 2 s", c.name, took)
		}
		if p := g.status().Peers[0]; p.Path != "none" || !p.LastHandshake.IsZero() {
			t.Errorf("%s: status of the peer is %+v", c.name, p)
		}
		g.end()
	}
}

// MTUs that are valid in a wg-quick file but not for the userspace stack are refused before
// anything is started.
func TestMTUTooSmall(t *testing.T) {
	t.Parallel()
	ns, dir := newNetns(t, "client"), newDir(t, "client")
	for mtu, status := range map[int]int{68: 2, 575: 2, 65535: 2} {
		text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = 10.77.0.2/32\nMTU = %d\n",
			base64Of(key.NewNodePrivate().Raw()), mtu)
		path := writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.conf", mtu)), text)
		r := ns.run(ginnelCommand(dir, "up", "--wireguard", path), "")
		if r.status != status || !strings.Contains(r.stderr, fmt.Sprint(mtu)) {
			t.Errorf("MTU %d: status %d, %q, want %d", mtu, r.status, r.stderr, status)
		}
	}
}
