package configs

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/key"
)

// Keys from the examples in wg(8) and wg-quick(8).
const (
	privateA = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	publicA  = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=" // the public key of privateA
	publicB  = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	publicC  = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	shared   = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="
	zeroKey  = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

func rawKey(t *testing.T, s string) [key.Size]byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != key.Size {
		t.Fatalf("bad key in test: %v", err)
	}
	return [key.Size]byte(b)
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// texts returns the problems as lines, without the name of the file.
func texts(problems []Problem) (lines []string) {
	for _, p := range problems {
		lines = append(lines, strings.TrimPrefix(strings.TrimPrefix(p.String(), p.File), ":"))
	}
	return lines
}

func mustParse(t *testing.T, s string) *WireGuard {
	t.Helper()
	wg, err := ParseWireGuard("wg.conf", []byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return wg
}

// A file with everything that the two manual pages allow, in unusual formatting.
func TestParseWireGuard(t *testing.T) {
	wg := mustParse(t, "\ufeff# comment\r\n\r\n  [interface]  # here\r\n"+
		"\tPRIVATEKEY="+privateA+"#comment\r\n"+
		"Address = 10.0.0.1/24,10.0.0.2 , fd00::1/64,\r\n"+
		"address\t=\tfd00::2 10.1.0.1/16\r\n"+
		"DNS = 10.0.0.53, corp.example\r\n"+
		"DNS = fd00::53 lan\r\n"+
		"ListenPort = 0051820\r\n"+
		"MTU = 1380\r\n"+
		"[PEER]\r\n"+
		"Public Key = "+publicB+"\r\n"+
		"PresharedKey = "+shared+"\r\n"+
		"AllowedIPs = 10.2.0.9/16, 0.0.0.0/0\r\n"+
		"AllowedIPs = ::/0,fd00::7,10.2.0.0/16,192.0.2.1\r\n"+
		"Endpoint = [2001:db8::1]:51820\r\n"+
		"PersistentKeepalive = 25\r\n"+
		"[ Peer ]\r\n"+
		"PublicKey = "+publicC+"\r\n"+
		"Endpoint = vpn.example.com : 51820\r\n"+
		"PersistentKeepalive = Off\r\n"+
		"AllowedIPs = 10.3.0.0/16")

	psk := key.PresharedFromRaw(rawKey(t, shared))
	want := &WireGuard{
		PrivateKey: key.NodePrivateFromRaw(rawKey(t, privateA)),
		Addresses:  prefixes("10.0.0.1/24", "10.0.0.2/32", "fd00::1/64", "fd00::2/128", "10.1.0.1/16"),
		ListenPort: 51820,
		MTU:        1380,
		DNS:        []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::53")},
		Search:     []string{"corp.example", "lan"},
		Peers: []WireGuardPeer{{
			PublicKey:           rawKey(t, publicB),
			PresharedKey:        psk,
			Endpoint:            Endpoint{"2001:db8::1", 51820},
			AllowedIPs:          prefixes("10.2.0.0/16", "0.0.0.0/0", "::/0", "fd00::7/128", "192.0.2.1/32"),
			PersistentKeepalive: 25 * time.Second,
		}, {
			PublicKey:  rawKey(t, publicC),
			Endpoint:   Endpoint{"vpn.example.com", 51820},
			AllowedIPs: prefixes("10.3.0.0/16"),
		}},
	}
	if got, want := texts(wg.Warnings), []string{"14:14: AllowedIPs: 10.2.0.9/16 means 10.2.0.0/16"}; !slices.Equal(got,
		want) {
		t.Errorf("warnings: got %q, want %q", got, want)
	}
	wg.Warnings = nil
	if !reflect.DeepEqual(wg, want) {
		t.Errorf("got  %+v\nwant %+v", wg, want)
	}
	if wg.Peers[0].PresharedKey.Raw() != rawKey(t, shared) {
		t.Error("preshared key was not taken over")
	}
}

const minimal = "[Interface]\nPrivateKey = " + privateA + "\nAddress = 10.0.0.1/24\n"

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:51820":                     "192.0.2.1:51820",
		"[2001:db8::1]:51820":                 "[2001:db8::1]:51820",
		"2001:db8::1:51820":                   "[2001:db8::1]:51820", // wg cuts at the last colon
		"[2001:DB8:0::1]:1":                   "[2001:db8::1]:1",
		"[fe80::1%eth0]:51820":                "[fe80::1%eth0]:51820",
		"vpn_1.example.com.:65535":            "vpn_1.example.com.:65535",
		"[vpn.example.com]:51820":             "vpn.example.com:51820",
		"localhost:51820":                     "localhost:51820",
		strings.Repeat("z", 63) + ".AZ09-_:1": strings.Repeat("z", 63) + ".AZ09-_:1",
		strings.Repeat("a.", 126) + "a:1":     strings.Repeat("a.", 126) + "a:1",
	} {
		wg := mustParse(t, minimal+"[Peer]\nPublicKey = "+publicB+"\nEndpoint = "+in+"\n")
		if got := wg.Peers[0].Endpoint; got.String() != want || got == (Endpoint{}) {
			t.Errorf("%s: got %v, want %v", in, got, want)
		}
	}
	for in, want := range map[string]bool{"192.0.2.1:1": true, "[2001:db8::1]:1": true, "example.com:1": false} {
		e := mustParse(t, minimal+"[Peer]\nPublicKey = "+publicB+"\nEndpoint = "+in+"\n").Peers[0].Endpoint
		if addr, ok := e.AddrPort(); ok != want || ok && addr != netip.MustParseAddrPort(in) {
			t.Errorf("%s: AddrPort = %v, %v", in, addr, ok)
		}
	}
}

// A line without effect causes a warning and changes nothing else.
func TestWarnings(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"Table", minimal + "Table = off\n", "4:1: Table is ignored: the host's routes are not changed"},
		{"PreUp", minimal + "PreUp = touch /tmp/x # y = z\n", "4:1: PreUp is ignored: commands are never run"},
		{"PostUp", minimal + "PostUp = \n", "4:1: PostUp is ignored: commands are never run"},
		{"PreDown", minimal + "predown = iptables -D a; b\n", "4:1: PreDown is ignored: commands are never run"},
		{"PostDown", minimal + "  PostDown = x\n", "4:3: PostDown is ignored: commands are never run"},
		{"SaveConfig", minimal + "SaveConfig = True\n", "4:1: SaveConfig is ignored: the file is never written"},
		{"SaveConfig false", minimal + "SaveConfig = FALSE\n", "4:1: SaveConfig is ignored: the file is never written"},
		{"FwMark", minimal + "FwMark = 0xCa6c\n", "4:1: FwMark is ignored: marking packets needs privileges"},
		{"FwMark off", minimal + "FwMark = OFF\n", "4:1: FwMark is ignored: marking packets needs privileges"},
		{"routing domain", minimal + "DNS = 10.0.0.53, ~.\n",
			`4:18: DNS: the routing domain "~." of systemd-resolved is ignored`},
		{"replaced", minimal + "MTU = 1400\nMTU = 1500\n", "5:1: MTU replaces the one on line 4"},
		{"second interface", minimal + "[Interface]\nAddress = 10.0.0.2\nPrivateKey = " + privateA + "\n",
			"6:1: PrivateKey replaces the one on line 2"},
		{"small MTU", minimal + "Address = fd00::1\nMTU = 1000\n",
			"5:7: MTU 1000 is below 1280, without which there is no IPv6"},
		{"smallest MTU of IPv6", minimal + "Address = fd00::1\nMTU = 1280\n", ""},
		{"smallest MTU of IPv4", minimal + "MTU = 576\n", ""},
		{"own key", minimal + "[Peer]\nPublicKey = " + publicA + "\n",
			"5:13: PublicKey belongs to the PrivateKey of [Interface]: this peer is ignored"},
		{"empty values", minimal + "DNS =\nMTU =\nAddress =\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			wg := mustParse(t, test.file+"[Peer]\nPublicKey = "+publicB+"\n")
			if got := strings.Join(texts(wg.Warnings), "\n"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if len(wg.Peers) != 1 || wg.Addresses[0] != netip.MustParsePrefix("10.0.0.1/24") {
				t.Errorf("the rest of the file was read differently: %+v", wg)
			}
		})
	}
	if got, want := texts(mustParse(t, minimal).Warnings), []string{"1:1: no [Peer] is given"}; !slices.Equal(got, want) {
		t.Errorf("without peers: got %q, want %q", got, want)
	}
}

// Sections are merged by the rules of set_peer in the kernel and IpcSet in wireguard-go.
func TestDuplicatePeers(t *testing.T) {
	peer := func(public, rest string) string { return "[Peer]\nPublicKey = " + public + "\n" + rest }
	for _, test := range []struct {
		name, peers string
		want        []WireGuardPeer
		warnings    []string
	}{
		{
			name: "second section updates the first",
			peers: peer(publicB,
				"PresharedKey = "+shared+"\nEndpoint = a.example:1\nAllowedIPs = 10.1.0.0/16\nPersistentKeepalive = 5\n") +
				peer(publicB, "AllowedIPs = 10.2.0.0/16\nEndpoint = b.example:2\n"),
			want: []WireGuardPeer{{PublicKey: rawKey(t, publicB), PresharedKey: key.PresharedFromRaw(rawKey(t, shared)),
				Endpoint: Endpoint{"b.example", 2}, AllowedIPs: prefixes("10.2.0.0/16"), PersistentKeepalive: 5 * time.Second}},
			warnings: []string{"11:13: PublicKey is that of the peer on line 5, which this one changes"},
		},
		{
			name: "second section takes away",
			peers: peer(publicB, "PresharedKey = "+shared+"\nAllowedIPs = 10.1.0.0/16\nPersistentKeepalive = 5\n") +
				peer(publicB, "PresharedKey = "+zeroKey+"\nPersistentKeepalive = off\n"),
			want:     []WireGuardPeer{{PublicKey: rawKey(t, publicB), AllowedIPs: nil}},
			warnings: []string{"10:13: PublicKey is that of the peer on line 5, which this one changes"},
		},
		{
			name: "prefix goes to the last",
			peers: peer(publicB, "AllowedIPs = 10.1.0.0/16, 10.2.0.0/16\n") +
				peer(publicC, "AllowedIPs = 10.3.0.0/16, 10.1.9.9/16\n"),
			want: []WireGuardPeer{
				{PublicKey: rawKey(t, publicB), AllowedIPs: prefixes("10.2.0.0/16")},
				{PublicKey: rawKey(t, publicC), AllowedIPs: prefixes("10.3.0.0/16", "10.1.0.0/16")},
			},
			warnings: []string{
				"9:27: AllowedIPs: 10.1.9.9/16 means 10.1.0.0/16",
				"9:27: AllowedIPs: 10.1.0.0/16 is given to another peer on line 6; the last one has it",
			},
		},
		{
			name: "prefix goes back and forth",
			peers: peer(publicB, "AllowedIPs = 10.1.0.0/16\n") + peer(publicC, "AllowedIPs = 10.1.0.0/16\n") +
				peer(publicB, "AllowedIPs = 10.1.0.0/16, 10.1.0.0/16\n"),
			want: []WireGuardPeer{
				{PublicKey: rawKey(t, publicB), AllowedIPs: prefixes("10.1.0.0/16")},
				{PublicKey: rawKey(t, publicC), AllowedIPs: []netip.Prefix{}},
			},
			warnings: []string{
				"9:14: AllowedIPs: 10.1.0.0/16 is given to another peer on line 6; the last one has it",
				"11:13: PublicKey is that of the peer on line 5, which this one changes",
				"12:14: AllowedIPs: 10.1.0.0/16 is given to another peer on line 9; the last one has it",
			},
		},
		{
			name:  "prefix is given up before it is taken",
			peers: peer(publicB, "AllowedIPs = 10.1.0.0/16\n") + peer(publicB, "") + peer(publicC, "AllowedIPs = 10.1.0.1/16\n"),
			want: []WireGuardPeer{
				{PublicKey: rawKey(t, publicB)},
				{PublicKey: rawKey(t, publicC), AllowedIPs: prefixes("10.1.0.0/16")},
			},
			warnings: []string{
				"8:13: PublicKey is that of the peer on line 5, which this one changes",
				"11:14: AllowedIPs: 10.1.0.1/16 means 10.1.0.0/16",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			wg := mustParse(t, minimal+test.peers)
			if !reflect.DeepEqual(wg.Peers, test.want) {
				t.Errorf("got  %+v\nwant %+v", wg.Peers, test.want)
			}
			if got := texts(wg.Warnings); !slices.Equal(got, test.warnings) {
				t.Errorf("warnings:\ngot  %q\nwant %q", got, test.warnings)
			}
		})
	}
}

func TestLoadWireGuard(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "wg0.conf")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	write(minimal + "[Peer]\nPublicKey = " + publicB + "\n")
	// As in wg-quick, the warning needs both the file and its directory to be accessible to others.
	for _, mode := range []struct {
		file, dir fs.FileMode
		warned    bool
	}{
		{0o600, 0o755, false}, {0o640, 0o755, false}, {0o604, 0o755, true}, {0o644, 0o750, false}, {0o602, 0o755, false},
		{0o602, 0o777, true},
	} {
		os.Chmod(path, mode.file)
		os.Chmod(dir, mode.dir)
		wg, err := LoadWireGuard(path)
		if err != nil {
			t.Fatal(err)
		}
		want := []string(nil)
		if mode.warned && runtime.GOOS != "windows" {
			want = []string{" is accessible to everybody on this machine and holds a private key"}
		}
		if got := texts(wg.Warnings); !slices.Equal(got, want) {
			t.Errorf("file %o in directory %o: got %q, want %q", mode.file, mode.dir, got, want)
		}
	}

	write("[Interface]\nMTU = x\n")
	if _, err := LoadWireGuard(path); err == nil || !strings.Contains(err.Error(), path+":2:7: MTU") {
		t.Errorf("got %v, want the path, line and column", err)
	}
	write(minimal + strings.Repeat("#", maxWireGuard-len(minimal)))
	if _, err := LoadWireGuard(path); err != nil {
		t.Errorf("just not too large: got %v", err)
	}
	write(strings.Repeat("#", maxWireGuard+1))
	if _, err := LoadWireGuard(path); err == nil || err.Error() != path+": is larger than 4096 KiB" {
		t.Errorf("too large: got %v", err)
	}
	if _, err := LoadWireGuard(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: got %v", err)
	}
	if _, err := LoadWireGuard(path + "x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("a missing file: got %v", err)
	}
}

// A large file whose prefixes change their owner repeatedly is parsed in less than quadratic time.
func TestLargeWireGuardFile(t *testing.T) {
	var b strings.Builder
	b.WriteString(minimal)
	for i := 0; b.Len() < maxWireGuard/4; i++ {
		fmt.Fprintf(&b, "[Peer]\nPublicKey = %s\nAllowedIPs = ", []string{publicB, publicC}[i%2])
		for j := range 20 {
			fmt.Fprintf(&b, "10.%d.%d.%d,", i>>8&255, i&255, j)
		}
		b.WriteString("\n")
	}
	wg := mustParse(t, b.String())
	if len(wg.Peers) != 2 || len(wg.Warnings) != maxProblems+1 {
		t.Errorf("got %d peers and %d warnings", len(wg.Peers), len(wg.Warnings))
	}
	_, err := ParseWireGuard("wg.conf", []byte(strings.Repeat("x\n", maxWireGuard/8)))
	if problems, ok := err.(Problems); !ok || len(problems) != maxProblems+1 {
		t.Errorf("got %d problems", len(problems))
	}
}
