package configs

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"ginnel/key"
)

func TestWireGuardMistakes(t *testing.T) {
	peer := minimal + "[Peer]\nPublicKey = " + publicB + "\n"
	long := strings.Repeat("z", 100)
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "1:1: PrivateKey is missing in [Interface]\n1:1: Address is missing in [Interface]"},
		{"no key", "\n  [Interface]\nAddress = 10.0.0.1\n", "2:3: PrivateKey is missing in [Interface]"},
		{"no address", "[Interface]\nPrivateKey = " + privateA, "1:1: Address is missing in [Interface]"},
		{"no public key", minimal + "\n [Peer]\nAllowedIPs = 10.0.0.0/8\n", "5:2: PublicKey is missing in this [Peer]"},
		{"short key", "[Interface]\nAddress=::1\nPrivateKey = abc\n",
			"3:14: PrivateKey has 3 characters, want the 44 of 32 bytes in base64"},
		{"key without value", "[Interface]\nAddress=::1\nPrivateKey =\n",
			"3:13: PrivateKey has 0 characters, want the 44 of 32 bytes in base64"},
		{"stray bits", "[Interface]\nAddress=::1\nPrivateKey = " + privateA[:42] + "l=",
			"3:14: PrivateKey is not 32 bytes in base64"},
		{"31 bytes", "[Interface]\nAddress=::1\nPrivateKey = " + privateA[:41] + "A==",
			"3:14: PrivateKey is not 32 bytes in base64"},
		{"33 bytes", "[Interface]\nAddress=::1\nPrivateKey = " + privateA[:43] + "A",
			"3:14: PrivateKey is not 32 bytes in base64"},
		{"URL alphabet", "[Interface]\nAddress=::1\nPrivateKey = " + strings.ReplaceAll(privateA, "+", "-"),
			"3:14: PrivateKey is not 32 bytes in base64"},
		{"zero key", "[Interface]\nAddress=::1\nPrivateKey = " + zeroKey, "3:14: PrivateKey is all zero"},
		{"public key", minimal + "[Peer]\nPublicKey = xyz\n",
			`5:13: PublicKey "xyz" has 3 characters, want the 44 of 32 bytes in base64`},
		{"public key of low order", minimal + "[Peer]\nPublicKey = AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
			`5:13: PublicKey "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" is a point of low order, which nobody can have a private key for`},
		{"zero public key", minimal + "[Peer]\nPublicKey = " + zeroKey, `5:13: PublicKey "` + zeroKey + `" is all zero`},
		{"preshared key", peer + "PresharedKey = " + shared[1:],
			"6:16: PresharedKey has 43 characters, want the 44 of 32 bytes in base64"},
		{"unknown key", minimal + "PrivateKye = " + privateA, `4:1: unknown key "PrivateKye"`},
		{"unknown section", minimal + "[Pear]\nFoo = bar\nPublicKey = x\n",
			`4:1: unknown section "Pear", want [Interface] or [Peer]`},
		{"open section", minimal + "  [Peer\nPublicKey = x\n", "4:3: section has no closing bracket at the end of the line"},
		{"key in the wrong section", peer + "Address = 10.0.0.1\n", "6:1: Address is in [Peer], but belongs in [Interface]"},
		{"key in the wrong section 2", minimal + "endpoint = x:1\n",
			"4:1: Endpoint is in [Interface], but belongs in [Peer]"},
		{"key before sections", "MTU = 1\n" + minimal, "1:1: MTU is before the first section, but belongs in [Interface]"},
		{"no equals sign", minimal + "PostUp\n", "4:1: is neither a section nor Key = Value"},
		{"semicolon comment", minimal + "; MTU = 1\n", "4:1: unknown key"},
		{"address", minimal + "Address = 10.0.0.1/24, 10.0.0.256\n",
			`4:24: Address: "10.0.0.256" is not an address or prefix`},
		{"address zone", minimal + "Address = fe80::1%eth0/64\n",
			`4:11: Address: "fe80::1%eth0/64" is not an address or prefix`},
		{"address length", minimal + "Address = 10.0.0.1/33\n",
			`4:11: Address: "10.0.0.1/33" has no prefix length from 0 to 32`},
		{"address mask", minimal + "Address = 10.0.0.1/255.0.0.0\n",
			`4:11: Address: "10.0.0.1/255.0.0.0" has no prefix length from 0 to 32`},
		{"bad address only", "[Interface]\nPrivateKey=" + privateA + "\nAddress = x\n",
			`3:11: Address: "x" is not an address or prefix`},
		{"allowed", peer + "AllowedIPs = 10.0.0.0/8, fd00::/129,\tx/8\n",
			"6:26: AllowedIPs: \"fd00::/129\" has no prefix length from 0 to 128\n6:38: AllowedIPs: \"x/8\" is not an address or prefix"},
		{"allowed, negative", peer + "AllowedIPs = 10.0.0.0/-1\n",
			`6:14: AllowedIPs: "10.0.0.0/-1" has no prefix length from 0 to 32`},
		{"allowed, two in one", peer + "AllowedIPs = 10.0.0.0/8 11.0.0.0/8\n",
			`6:14: AllowedIPs: "10.0.0.0/811.0.0.0/8" has no prefix length from 0 to 32`},
		{"allowed, empty", peer + "AllowedIPs =\n", "6:13: AllowedIPs is empty"},
		{"DNS address", minimal + "DNS = 1.1.1, 8.8.8.8:53\n",
			"4:7: DNS: \"1.1.1\" is not an address\n4:14: DNS: \"8.8.8.8:53\" is not an address"},
		{"DNS name", minimal + "DNS = é, b/c\n",
			"4:7: DNS: host \"é\" is neither an address nor a name\n4:10: DNS: host \"b/c\" is neither an address nor a name"},
		{"port", minimal + "ListenPort = 65536\n", `4:14: ListenPort: port "65536" is not a number from 0 to 65535`},
		{"port name", minimal + "ListenPort = domain\n", `4:14: ListenPort: port "domain" is not a number from 0 to 65535`},
		{"MTU", minimal + "MTU = 575\n", `4:7: MTU: "575" is not a number from 576 to 65500`},
		{"FwMark", minimal + "FwMark = 0x100000000\n",
			`4:10: FwMark: "0x100000000" is neither "off" nor a number of 32 bits`},
		{"SaveConfig", minimal + "SaveConfig = yes\n", `4:14: SaveConfig: "yes" is neither true nor false`},
		{"keepalive", peer + "PersistentKeepalive = 65536\n",
			`6:23: PersistentKeepalive: "65536" is neither "off" nor a number of seconds from 0 to 65535`},
		{"keepalive unit", peer + "PersistentKeepalive = 25s\n",
			`6:23: PersistentKeepalive: "25s" is neither "off" nor a number of seconds from 0 to 65535`},
		{"endpoint without port", peer + "Endpoint = example.com\n",
			`6:12: Endpoint: "example.com" is not host:port: host or port is missing`},
		{"endpoint with port 0", peer + "Endpoint = example.com:0\n",
			`6:12: Endpoint: "example.com:0" is not host:port: port "0" is not a number from 1 to 65535`},
		{"endpoint without host", peer + "Endpoint = :51820\n", `6:12: Endpoint: ":51820" is not host:port: host is empty`},
		{"endpoint not opened", peer + "Endpoint = ::1]:51820\n",
			`6:12: Endpoint: "::1]:51820" is not host:port: bracket is not opened`},
		{"endpoint address", peer + "Endpoint = 192.0.2.256:1\n",
			`6:12: Endpoint: "192.0.2.256:1" is not host:port: host "192.0.2.256" is not an IPv4 address`},
		{"endpoint URL", peer + "Endpoint = http://a:1\n",
			`6:12: Endpoint: "http://a:1" is not host:port: host "http://a" is neither an address nor a name`},
		{"endpoint label", peer + "Endpoint = a..b:1\n",
			`6:12: Endpoint: "a..b:1" is not host:port: host "a..b" is neither an address nor a name`},
		{"endpoint long label", peer + "Endpoint = " + long[:64] + ":1\n", `6:12: Endpoint: "` + long[:64] +
			`:1" is not host:port: host "` + long[:64] + `" is neither an address nor a name`},
		{"endpoint long name", peer + "Endpoint = " + strings.Repeat("a.", 127) + ":1\n",
			`6:12: Endpoint: "` + strings.Repeat("a.", 40) + `"... is not host:port: host "` + strings.Repeat("a.", 40) +
				`"... is longer than 253 characters`},
		{"longest unknown key", minimal + long[:24] + " = 1\n" + long[:25] + " = 1\n= 1\n",
			`4:1: unknown key "` + long[:24] + "\"\n5:1: unknown key\n6:1: unknown key"},
		{"UTF-16", "\xff\xfe[\x00I\x00", "1:1: is not UTF-8 text here"},
		{"large MTU", minimal + "MTU = 65501\n", `4:7: MTU: "65501" is not a number from 576 to 65500`},
		{"NUL", minimal + "MTU = 1\x004\n", "4:8: is not UTF-8 text here"},
		{"several", "[Interface]\nMTU = x\nFoo = 1\n[Peer]\nEndpoint = x\n",
			"1:1: PrivateKey is missing in [Interface]\n1:1: Address is missing in [Interface]\n" +
				"2:7: MTU: \"x\" is not a number from 576 to 65500\n3:1: unknown key \"Foo\"\n" +
				"4:1: PublicKey is missing in this [Peer]\n5:12: Endpoint: \"x\" is not host:port: host or port is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wg, err := ParseWireGuard("wg.conf", []byte(test.file))
			problems, ok := err.(Problems)
			if !ok || wg != nil {
				t.Fatalf("got %+v, %v, want Problems", wg, err)
			}
			if got := strings.Join(texts(problems), "\n"); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// No problem contains a secret key, wherever in the file it was misplaced.
func TestMistakesShowNoSecrets(t *testing.T) {
	secret := strings.TrimSuffix(privateA, "=")
	for _, file := range []string{
		"PrivateKey = " + privateA,
		"[Interface]\nPrivateKey = " + privateA + privateA,
		"[Interface]\nPrivateKey = " + secret,
		"[Interface]\nPrivateKey " + privateA,
		"[Interface]\nPrivateKey =\n" + privateA,
		"[Interface]\nPrivateKey =\n" + secret,
		"[Interface]\nPrivateKeyy = " + privateA,
		"[Interface]\nPresharedKey = " + privateA,
		"[Interface\nPrivateKey = " + privateA,
		"[Interface] PrivateKey = " + privateA,
		"[" + privateA + "]",
		"[Peer]\nPresharedKey = " + privateA + "x",
		"[Interface]\nPostUp = wg set " + privateA + "\nPrivateKey = " + privateA + "\nPrivateKey = " + privateA + "\n",
	} {
		wg, err := ParseWireGuard("wg.conf", []byte(file))
		if err == nil {
			t.Errorf("%q: want an error", file)
		}
		if out := fmt.Sprint(wg, err); leaks(out, secret) {
			t.Errorf("%q: the key is in %q", file, out)
		}
	}
}

// leaks reports whether out contains any eight consecutive characters of secret.
func leaks(out, secret string) bool {
	for i := range len(secret) - 8 {
		if strings.Contains(out, secret[i:i+8]) {
			return true
		}
	}
	return false
}

func TestKeysPrintNothing(t *testing.T) {
	wg := mustParse(t, minimal+"[Peer]\nPublicKey = "+publicB+"\nPresharedKey = "+shared+"\n")
	psk := wg.Peers[0].PresharedKey
	if psk.IsZero() {
		t.Fatal("preshared key was not read")
	}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", psk, &psk, wg)
	}
	out.WriteString(psk.String())
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "psk", psk, "wg", wg.Peers[0])
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "psk", psk, "peer", wg.Peers[0])
	for _, secret := range []string{shared, privateA} {
		raw := rawKey(t, secret)
		for _, form := range []string{secret[:8], fmt.Sprintf("%x", raw[:4]), fmt.Sprintf("%X", raw[:4]),
			strings.Trim(fmt.Sprint(raw[:4]), "[]")} {
			if strings.Contains(out.String(), form) {
				t.Errorf("printed output contains key material %q", form)
			}
		}
	}
}

// A file that is cut at any byte is accepted, or refused with places inside it and without its
// secrets.
func TestWireGuardCutAnywhere(t *testing.T) {
	whole := example(t, "wireguard.conf")
	for n := range whole {
		for _, p := range checkWireGuard(t, whole[:n]) {
			if leaks(p.Text, privateA) || leaks(p.Text, shared) {
				t.Errorf("cut at %d: %q", n, p.Text)
			}
		}
	}
}

func FuzzParseWireGuard(f *testing.F) {
	f.Add([]byte(minimal + "[Peer]\nPublicKey = " + publicB + "\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = [::1]:1\nPresharedKey = " + shared + "\n"))
	f.Add([]byte("\ufeff[interface]\r\nPostUp = x # y\r\nDNS = a, ~b 1.1.1.1\r\n[Peer"))
	f.Fuzz(func(t *testing.T, b []byte) { checkWireGuard(t, b) })
}

// checkWireGuard checks properties of every input, and returns the problems or warnings.
func checkWireGuard(t *testing.T, b []byte) []Problem {
	t.Helper()
	wg, err := ParseWireGuard("wg.conf", b)
	problems, ok := err.(Problems)
	if (err == nil) != (wg != nil) || err != nil && (!ok || len(problems) == 0) {
		t.Fatalf("got %v and error %v", wg, err)
	}
	if wg != nil {
		problems = wg.Warnings
		checkPeers(t, wg)
	}
	lines := strings.Split(string(b), "\n")
	for _, p := range problems {
		if p.Line > len(lines) || p.Line > 0 && (p.Column < 1 || p.Column > len(lines[p.Line-1])+1) {
			t.Fatalf("%v is not in the file", p)
		}
		if strings.ContainsAny(p.Text, "\r\n\x00") {
			t.Fatalf("text %q", p.Text)
		}
	}
	if len(problems) > maxProblems+1 {
		t.Fatalf("%d problems", len(problems))
	}
	return problems
}

func checkPeers(t *testing.T, wg *WireGuard) {
	t.Helper()
	if wg.PrivateKey.IsZero() || len(wg.Addresses) == 0 {
		t.Fatalf("accepted without key or address: %+v", wg)
	}
	owners := make(map[netip.Prefix]key.NodePublic)
	for _, peer := range wg.Peers {
		if peer.PublicKey.IsZero() || peer.PublicKey == wg.PrivateKey.Public() {
			t.Fatalf("accepted peer %+v", peer)
		}
		for _, prefix := range peer.AllowedIPs {
			if _, taken := owners[prefix]; taken || prefix != prefix.Masked() {
				t.Fatalf("%v is allowed twice or not masked", prefix)
			}
			owners[prefix] = peer.PublicKey
		}
	}
}
