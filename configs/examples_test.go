package configs

import (
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// example returns an example file without its comment lines.
func example(t *testing.T, name string) []byte {
	t.Helper()
	b, err := Examples.ReadFile("examples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(b), "\n"),
		func(line string) bool { return strings.HasPrefix(line, "#") })
	return []byte(strings.Join(lines, ""))
}

// The example has all of the keys in upKeys, with values that their parsers accept.
func TestExampleUp(t *testing.T) {
	b, err := Examples.ReadFile("examples/up.yaml")
	if err != nil {
		t.Fatal(err)
	}
	settings, err := Parse("up.yaml", b, upKeys)
	if err != nil {
		t.Fatal(err)
	}
	readers := map[string]func(string) error{
		"proxy":           func(s string) error { _, err := ParseProxyAddr(s); return err },
		"proxy-auth":      func(s string) error { _, err := ParseProxyAuth(s); return err },
		"forward":         func(s string) error { _, err := ParseForward(s); return err },
		"serve":           func(s string) error { _, err := ParseServe(s); return err },
		"dns":             func(s string) error { _, err := ParseDNSAddr(s); return err },
		"mesh-only":       func(s string) error { _, err := strconv.ParseBool(s); return err },
		"log-connections": func(s string) error { _, err := strconv.ParseBool(s); return err },
		"dial-timeout":    func(s string) error { _, err := time.ParseDuration(s); return err },
		"memory":          func(s string) error { _, err := ParseSize(s); return err },
		"udp-port":        func(s string) error { _, err := strconv.ParseUint(s, 10, 16); return err },
		"log-level":       func(s string) error { return new(slog.Level).UnmarshalText([]byte(s)) },
		"wireguard":       func(s string) error { _, err := Examples.ReadFile("examples/" + s); return err },
	}
	var got []string
	for _, s := range settings {
		got = append(got, s.Key)
		for _, v := range s.Values {
			if read, ok := readers[s.Key]; ok {
				if err := read(v.Text); err != nil {
					t.Errorf("%v: %s: %v", v.At, s.Key, err)
				}
			}
		}
	}
	for known := range upKeys {
		if !slices.Contains(got, known) {
			t.Errorf("the example leaves out %s", known)
		}
	}
}

func TestExampleWireGuard(t *testing.T) {
	b, err := Examples.ReadFile("examples/wireguard.conf")
	if err != nil {
		t.Fatal(err)
	}
	wg, err := ParseWireGuard("wireguard.conf", b)
	if err != nil {
		t.Fatal(err)
	}
	if len(wg.Warnings) > 0 || len(wg.Peers) != 2 || len(wg.Addresses) != 2 || wg.Peers[0].PresharedKey.IsZero() {
		t.Errorf("got %+v", wg)
	}
	// The example has every key that has an effect.
	for _, k := range wgKeys {
		if !strings.Contains(string(b), k.name) {
			t.Errorf("the example leaves out %s", k.name)
		}
	}
}
