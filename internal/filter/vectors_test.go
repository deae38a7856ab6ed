package filter

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"reflect"
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

// out lets a packet leave: whether it may, and what is remembered of it.
func out(f *Filter, b []byte) bool {
	var h headers
	switch h.parse(b) {
	case malformed, strayed:
		return false
	case complete:
		f.sent(&h)
	}
	return true
}

// The packets in their order, because what has left decides about what comes in; then once more
// with shields up, which is how the rules are for everybody who is jailed.
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

func TestGranted(t *testing.T) {
	v := loadVectors(t)
	var f Filter
	asked := v.PeerCapabilities
	if got := f.Granted(asked.Src, asked.Dst); got != nil {
		t.Errorf("a filter without a map grants %v", got)
	}
	set(t, &f, v.config())
	got, err1 := json.Marshal(f.Granted(asked.Src, asked.Dst))
	want, err2 := json.Marshal(asked.Granted)
	if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := f.Granted(asked.Dst, asked.Src); got != nil {
		t.Errorf("the other way round: got %s, want none", got)
	}
	cfg := v.config()
	cfg.Jailed = []netip.Prefix{netip.PrefixFrom(asked.Src, 32)}
	set(t, &f, cfg)
	if got := f.Granted(asked.Src, asked.Dst); got != nil {
		t.Errorf("to a jailed peer: got %s, want none", got)
	}
}

// "Union over all rules whose SrcIPs contain src and whose Dsts contain dst, values appended per
// capability."
func TestGrantedUnion(t *testing.T) {
	value := func(s string) []json.RawMessage { return []json.RawMessage{json.RawMessage(s)} }
	dsts := []netip.Prefix{netip.MustParsePrefix("100.64.0.0/24")}
	rules := []control.FilterRule{
		{SrcIPs: []string{"100.64.0.2"}, CapGrant: []control.CapGrant{{Dsts: dsts, CapMap: control.CapMap{"x/a": value("1")}}}},
		{SrcIPs: []string{"cap:x"}, CapGrant: []control.CapGrant{{Dsts: dsts, CapMap: control.CapMap{"x/a": value("2")}}}},
		{SrcIPs: []string{"*"}, CapGrant: []control.CapGrant{{Dsts: dsts, Caps: []string{"x/b"}}}},
	}
	var f Filter
	set(t, &f, Config{Rules: rules, HasCapability: func(a netip.Addr, c string) bool {
		return a == netip.MustParseAddr("100.64.0.2") && c == "x"
	}})
	got := f.Granted(netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("100.64.0.1"))
	want := control.CapMap{"x/a": {json.RawMessage("1"), json.RawMessage("2")}, "x/b": nil}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
	got = f.Granted(netip.MustParseAddr("fd7a:115c:a1e0::5"), netip.MustParseAddr("100.64.0.1"))
	if want := (control.CapMap{"x/b": nil}); !reflect.DeepEqual(got, want) {
		t.Errorf("other source: got %s, want %s", got, want)
	}
}
