package configs

import (
	"net"
	"strings"
	"testing"
)

var _ net.Addr = Address{}

func show(a Address) string { return a.Network() + " " + a.String() }

func TestParseForward(t *testing.T) {
	for in, want := range map[string]string{
		"8080:db:5432":                        "tcp 127.0.0.1:8080 > tcp db:5432",
		"8080:db:53/udp":                      "udp 127.0.0.1:8080 > udp db:53",
		"0:100.64.0.7:80":                     "tcp 127.0.0.1:0 > tcp 100.64.0.7:80",
		"0.0.0.0:8080:db:5432":                "tcp 0.0.0.0:8080 > tcp db:5432",
		":8080:db:5432":                       "tcp :8080 > tcp db:5432",
		"*:8080:db:5432":                      "tcp :8080 > tcp db:5432",
		"localhost:8080:db.mesh.example.:443": "tcp localhost:8080 > tcp db.mesh.example.:443",
		"8080:[fd7a::1]:80":                   "tcp 127.0.0.1:8080 > tcp [fd7a::1]:80",
		"[::1]:8080:[fd7a:0:0::1]:80/udp":     "udp [::1]:8080 > udp [fd7a::1]:80",
		"[::]:8080:db:80":                     "tcp [::]:8080 > tcp db:80",
		"unix:/run/db.sock:db:5432":           "unix /run/db.sock > tcp db:5432",
		"unix:a:b:[fd7a::1]:5432":             "unix a:b > tcp [fd7a::1]:5432",
	} {
		f, err := ParseForward(in)
		if got := show(f.Listen) + " > " + show(f.Target); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                       "host or port is missing",
		"8080":                   "host or port is missing",
		"db:5432":                "local port is missing",
		"8080:db":                `port of the target "db" is missing`,
		"8080:db/udp":            `port of the target "db" is missing`,
		":db:80":                 "local port is missing",
		"8080:db:0":              `port "0" is not a number from 1 to 65535`,
		"8080:db:65536":          `port "65536" is not a number from 1 to 65535`,
		"8080:db:http":           `port "http" is not a number from 1 to 65535`,
		"65536:db:80":            `port "65536" is not a number from 0 to 65535`,
		"-1:db:80":               `port "-1" is not a number from 0 to 65535`,
		"+80:db:80":              `port "+80" is not a number from 0 to 65535`,
		"8080::80":               "host is empty",
		"8080:[]:80":             "host is empty",
		"8080:fd7a::1:80":        "an IPv6 address needs brackets",
		"::1:8080:db:80":         "an IPv6 address needs brackets",
		"8080:db]:80":            "bracket is not opened",
		"8080[fd7a::1]:80":       "colon is missing before the bracket",
		"[::1]8080:db:80":        "bracket",
		"8080:[fd7a::1:80":       "an IPv6 address needs brackets",
		"8080:db/x:80":           `host "db/x" is neither an address nor a name`,
		"8080:db :80":            `host "db " is neither an address nor a name`,
		"8080:10.0.0.256:80":     `host "10.0.0.256" is not an IPv4 address`,
		"8080:db:80/tcp":         `port "80/tcp" is not a number from 1 to 65535`,
		"unix::db:80":            "path of the unix socket is missing",
		"unix:/x:db:80/udp":      "unix sockets cannot carry UDP",
		"a b:8080:db:80":         `host "a b" is neither an address nor a name`,
		"1:2:3:4:5":              "an IPv6 address needs brackets",
		strings.Repeat("a", 1e5): "host or port is missing",
	} {
		_, err := ParseForward(in)
		checkRefused(t, in, err, want, "want [bind:]port:host:hostport[/udp]")
	}
}

// checkRefused checks that err quotes the value, the reason and the wanted form.
func checkRefused(t *testing.T, in string, err error, reason, want string) {
	t.Helper()
	if err == nil {
		t.Errorf("%.100s was accepted", in)
		return
	}
	if got := err.Error(); !strings.HasPrefix(got, quote(in)+": ") || !strings.Contains(got, want) ||
		!strings.Contains(got, reason) || len(got) > 500 {
		t.Errorf("%.100s: got %v, want %s, %s", in, got, reason, want)
	}
}

func TestParseServe(t *testing.T) {
	for in, want := range map[string]string{
		"80=8080":                 "tcp 127.0.0.1:8080",
		"80=8080/udp":             "udp 127.0.0.1:8080",
		"80=localhost:8080":       "tcp localhost:8080",
		"80=192.168.1.7:8080":     "tcp 192.168.1.7:8080",
		"80=[::1]:8080/udp":       "udp [::1]:8080",
		"80=unix:/run/a=b:c.sock": "unix /run/a=b:c.sock",
	} {
		s, err := ParseServe(in)
		if got := show(s.Target); err != nil || got != want || s.Port != 80 {
			t.Errorf("%s: got %d to %s, %v, want 80 to %s", in, s.Port, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                     "equals sign is missing",
		"80":                   "equals sign is missing",
		"80:8080":              "equals sign is missing",
		"=8080":                `port "" is not a number from 1 to 65535`,
		"0=8080":               `port "0" is not a number from 1 to 65535`,
		"80=":                  `port "" is not a number from 1 to 65535`,
		"80=0":                 `port "0" is not a number from 1 to 65535`,
		"80=http":              `port "http" is not a number from 1 to 65535`,
		"80=:8080":             "host is empty",
		"80=::1:8080":          "an IPv6 address needs brackets",
		"80=[::1]":             "bracket",
		"80=unix:":             "path of the unix socket is missing",
		"80=unix:/run/x/udp":   "unix sockets cannot carry UDP",
		"80=http://a:80":       "an IPv6 address needs brackets",
		"80=user@host:80":      `host "user@host" is neither`,
		"80=8080/tcp":          `port "8080/tcp" is not a number`,
		"80 = 8080":            `port "80 " is not a number`,
		"80=\x1b[31mhost:8080": `neither an address nor a name`,
	} {
		_, err := ParseServe(in)
		checkRefused(t, in, err, want, "want PORT=LOCAL[/udp]")
	}
}

func TestParseProxyAddr(t *testing.T) {
	for _, test := range []struct {
		in, want string
		local    bool
	}{
		{"1080", "tcp 127.0.0.1:1080", true},
		{"0", "tcp 127.0.0.1:0", true},
		{":1080", "tcp :1080", false},
		{"*:1080", "tcp :1080", false},
		{"0.0.0.0:1080", "tcp 0.0.0.0:1080", false},
		{"[::]:1080", "tcp [::]:1080", false},
		{"127.0.0.1:1080", "tcp 127.0.0.1:1080", true},
		{"127.9.9.9:1080", "tcp 127.9.9.9:1080", true},
		{"[::1]:1080", "tcp [::1]:1080", true},
		{"[::ffff:127.0.0.1]:1080", "tcp [::ffff:127.0.0.1]:1080", true},
		{"LocalHost:1080", "tcp LocalHost:1080", true},
		{"localhost.example:1080", "tcp localhost.example:1080", false},
		{"192.168.1.7:1080", "tcp 192.168.1.7:1080", false},
		{"unix:/run/x.sock", "unix /run/x.sock", true},
		{"unix:x:1/udp", "unix x:1/udp", true},
	} {
		a, err := ParseProxyAddr(test.in)
		if got := show(a); err != nil || got != test.want || a.OnlyLocal() != test.local {
			t.Errorf("%s: got %s, local %v, %v, want %s, %v", test.in, got, a.OnlyLocal(), err, test.want, test.local)
		}
	}
	for in, want := range map[string]string{
		"":              `port "" is not a number from 0 to 65535`,
		"localhost":     `port "localhost" is not a number from 0 to 65535`,
		"localhost:":    `port "" is not a number from 0 to 65535`,
		"::1:1080":      "an IPv6 address needs brackets",
		"1080/udp":      `port "1080/udp" is not a number`,
		"a/b:1080":      `host "a/b" is neither`,
		"unix:":         "path of the unix socket is missing",
		"127.0.0:1080":  `host "127.0.0" is not an IPv4 address`,
		"[::1]x:1080":   "an IPv6 address needs brackets",
		"[nope:]:1080":  `host "nope:" is neither`,
		"127.0.0.1:1e3": `port "1e3" is not a number`,
	} {
		_, err := ParseProxyAddr(in)
		checkRefused(t, in, err, want, "want host:port, :port, port or unix:PATH")
	}
	if (Address{}).OnlyLocal() {
		t.Error("the zero address counts as local")
	}
}

// A DNS server has no authentication, so only an explicit address is reachable from other machines.
func TestParseDNSAddr(t *testing.T) {
	for _, test := range []struct {
		in, want string
		local    bool
	}{
		{"53", "udp 127.0.0.1:53", true},
		{":53", "udp 127.0.0.1:53", true},
		{"0", "udp 127.0.0.1:0", true},
		{"127.0.0.53:53", "udp 127.0.0.53:53", true},
		{"[::1]:53", "udp [::1]:53", true},
		{"*:53", "udp :53", false},
		{"0.0.0.0:53", "udp 0.0.0.0:53", false},
		{"172.17.0.1:53", "udp 172.17.0.1:53", false},
	} {
		a, err := ParseDNSAddr(test.in)
		if got := show(a); err != nil || got != test.want || a.OnlyLocal() != test.local {
			t.Errorf("%s: got %s, local %v, %v, want %s, %v", test.in, got, a.OnlyLocal(), err, test.want, test.local)
		}
	}
	for in, want := range map[string]string{
		"":         `port "" is not a number from 0 to 65535`,
		"::1:53":   "an IPv6 address needs brackets",
		"53/udp":   `port "53/udp" is not a number`,
		"unix:/x":  `port "/x" is not a number`,
		"unix:dns": `port "dns" is not a number`,
	} {
		_, err := ParseDNSAddr(in)
		checkRefused(t, in, err, want, "want [host:]port")
	}
}

// Package net accepts every address that is parsed, and parsing its text again gives the same.
func FuzzParseAddresses(f *testing.F) {
	for _, s := range []string{"[::1]:8080:[fd7a::1]:80/udp", "unix:/x:db:1", "*:1:a.b:2", "80=unix:/x", "53=[::1]:53/udp",
		":0", "1080", "a:1"} {
		f.Add(s)
	}
	f.Add(strings.Repeat("\xa8", maxQuoted+1))
	f.Fuzz(func(t *testing.T, s string) {
		if forward, err := ParseForward(s); err == nil {
			checkAddress(t, forward.Listen)
			checkAddress(t, forward.Target)
			suffix, listen := "", forward.Listen.String()
			switch forward.Listen.Network() {
			case "udp":
				suffix = "/udp"
			case "unix":
				listen = "unix:" + listen
			}
			again, err := ParseForward(listen + ":" + forward.Target.String() + suffix)
			if err != nil || again != forward {
				t.Fatalf("%q: %v, given back: %v, %v", s, forward, again, err)
			}
		} else if len(err.Error()) > 1000 {
			t.Fatalf("error of %d bytes", len(err.Error()))
		}
		if serve, err := ParseServe(s); err == nil {
			checkAddress(t, serve.Target)
		}
		if a, err := ParseProxyAddr(s); err == nil {
			checkAddress(t, a)
			if a.Network() != "unix" {
				if again, err := ParseProxyAddr(a.String()); err != nil || again != a {
					t.Fatalf("%q: %v, given back: %v, %v", s, a, again, err)
				}
			}
		}
	})
}

func checkAddress(t *testing.T, a Address) {
	t.Helper()
	if a.Network() == "unix" {
		if a.String() == "" {
			t.Fatal("unix socket without a path")
		}
		return
	}
	host, port, err := net.SplitHostPort(a.String())
	if err != nil || port == "" || strings.ContainsAny(host, " /@[]\r\n\x00") {
		t.Fatalf("address %q: %v", a, err)
	}
}
