package filter

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"testing"

	"ginnel/control"
)

type vectors struct {
	LocalPrefixes      []netip.Prefix          `json:"local_prefixes"`
	Rules              []control.FilterRule    `json:"rules"`
	SourceCapabilities map[netip.Addr][]string `json:"source_capabilities"`
	Packets            []struct {
		Note      string
		Direction string
		PacketHex string `json:"packet_hex"`
		Allow     bool
	}
	ShieldsUpDifferences []struct {
		Index int
		Allow bool
	} `json:"shields_up_differences"`
	PeerCapabilities struct {
		Src, Dst netip.Addr
		Granted  control.CapMap
	} `json:"peer_capabilities"`
}

func loadVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile("testdata/control.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		PacketFilter vectors `json:"packet_filter"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.PacketFilter.Packets) == 0 {
		t.Fatal("no packets in the vectors")
	}
	return file.PacketFilter
}

func (v *vectors) config() Config {
	return Config{
		Rules: v.Rules,
		Local: v.LocalPrefixes,
		HasCapability: func(src netip.Addr, capability string) bool {
			return slices.Contains(v.SourceCapabilities[src], capability)
		},
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func set(t testing.TB, f *Filter, cfg Config) {
	t.Helper()
	if err := f.Set(cfg); err != nil {
		t.Fatal(err)
	}
}

// out records an outbound packet in the flow table and reports whether it is well-formed.
func out(f *Filter, b []byte) bool {
	var h headers
	if !h.parse(b) {
		return false
	}
	f.sent(&h)
	return true
}

// The packets of the test vectors, in order, because outbound packets open flows for inbound ones.
// They are run twice: by the rules, and with all peers jailed, which is the "shields up" of the
// vectors.
func TestVectors(t *testing.T) {
	v := loadVectors(t)
	run := func(t *testing.T, cfg Config, want func(i int) bool) {
		var f Filter
		set(t, &f, cfg)
		for i, p := range v.Packets {
			decide := f.In
			if p.Direction == "out" {
				decide = func(b []byte) bool { return out(&f, b) }
			}
			if got := decide(unhex(t, p.PacketHex)); got != want(i) {
				t.Errorf("packet %d, %s: got %v, want %v", i, p.Note, got, want(i))
			}
		}
	}
	t.Run("rules", func(t *testing.T) {
		run(t, v.config(), func(i int) bool { return v.Packets[i].Allow })
	})
	shields := func(i int) bool {
		for _, d := range v.ShieldsUpDifferences {
			if d.Index == i {
				return d.Allow
			}
		}
		return v.Packets[i].Allow
	}
	t.Run("all jailed", func(t *testing.T) {
		cfg := v.config()
		cfg.Jailed = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		run(t, cfg, shields)
	})
}
