package transport

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"
)

// vectors is the part of testdata/disco.json that this package answers for; the messages themselves
// are tested where they are read and written.
type vectors struct {
	Classify []struct {
		Name, Hex, Class string
		Geneve           bool
	}
	Geneve []struct {
		Name, Hex string
		Inputs    struct{ Protocol string }
	}
	STUN []struct {
		Name, Hex     string
		Inputs        struct{ TxID string }
		ServerVerdict string `json:"server_verdict"`
		ClientVerdict string `json:"client_verdict"`
		Parsed        *struct{ Addr netip.AddrPort }
	}
	BetterAddr []struct {
		Name        string
		Inputs      struct{ A, B vectorAddr }
		ABetterThan bool `json:"a_better_than_b"`
		BBetterThan bool `json:"b_better_than_a"`
	} `json:"better_addr"`
}

type vectorAddr struct {
	Addr      string
	LatencyUs int `json:"latency_us"`
	VNI       uint32
	WireMTU   int `json:"wire_mtu"`
}

func (v vectorAddr) measured(t *testing.T) measured {
	m := measured{vni: v.VNI, latency: time.Duration(v.LatencyUs) * time.Microsecond, mtu: v.WireMTU}
	if v.Addr != "" {
		m.addr = netip.MustParseAddrPort(v.Addr)
	}
	return m
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/disco.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	if len(v.Classify) < 18 || len(v.Geneve) < 3 || len(v.STUN) < 11 || len(v.BetterAddr) < 21 {
		t.Fatalf("the vectors are incomplete: %d, %d, %d, %d", len(v.Classify), len(v.Geneve), len(v.STUN), len(v.BetterAddr))
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c class) text() string {
	return [...]string{classWireGuard: "wireguard", classDisco: "disco", classSTUN: "stun-binding"}[c]
}

func TestVectorClassify(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Classify {
		if class, geneve := classify(unhex(t, c.Hex)); class.text() != c.Class || geneve != c.Geneve {
			t.Errorf("%s: got %s, %v, want %s, %v", c.Name, class.text(), geneve, c.Class, c.Geneve)
		}
	}
	for _, c := range v.Geneve {
		want := map[string]class{"7a11": classDisco, "7a12": classWireGuard}[c.Inputs.Protocol]
		if class, geneve := classify(unhex(t, c.Hex)); class != want || !geneve {
			t.Errorf("%s: got %s, %v, want %s, true", c.Name, class.text(), geneve, want.text())
		}
	}
}

func TestVectorSTUN(t *testing.T) {
	for _, c := range loadVectors(t).STUN {
		b := unhex(t, c.Hex)
		switch {
		case c.ServerVerdict == "answer":
			if got := bindingRequest(stunTxID(unhex(t, c.Inputs.TxID))); !bytes.Equal(got, b) {
				t.Errorf("%s:\n got %x\nwant %x", c.Name, got, b)
			}
		case c.ServerVerdict == "ignore":
			if _, _, ok := parseBindingResponse(b); ok {
				t.Errorf("%s: a request was taken for a response", c.Name)
			}
		case c.ClientVerdict == "ignore":
			if _, addr, ok := parseBindingResponse(b); ok {
				t.Errorf("%s: accepted as %v", c.Name, addr)
			}
		default:
			txid, addr, ok := parseBindingResponse(b)
			if !ok || addr != c.Parsed.Addr || hex.EncodeToString(txid[:]) != c.Inputs.TxID {
				t.Errorf("%s: got %v, %v, want %v", c.Name, addr, ok, c.Parsed.Addr)
			}
		}
	}
}

func TestVectorBetter(t *testing.T) {
	for _, c := range loadVectors(t).BetterAddr {
		a, b := c.Inputs.A.measured(t), c.Inputs.B.measured(t)
		if got := better(a, b); got != c.ABetterThan {
			t.Errorf("%s: better(a, b) = %v, want %v", c.Name, got, c.ABetterThan)
		}
		if got := better(b, a); got != c.BBetterThan {
			t.Errorf("%s: better(b, a) = %v, want %v", c.Name, got, c.BBetterThan)
		}
	}
}

func FuzzSTUNResponse(f *testing.F) {
	for _, c := range loadVectors(f).STUN {
		f.Add(unhex(f, c.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, addr, ok := parseBindingResponse(b); ok && (!addr.IsValid() || addr.Addr().Is4In6()) {
			t.Errorf("accepted %v", addr)
		}
	})
}

func FuzzClassify(f *testing.F) {
	for _, c := range loadVectors(f).Classify {
		f.Add(unhex(f, c.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, geneve := classify(b)
		if len(b) >= 4 && b[0] >= 1 && b[0] <= 4 && b[1] == 0 && b[2] == 0 && b[3] == 0 && (c != classWireGuard || geneve) {
			t.Errorf("WireGuard message taken for %s, %v", c.text(), geneve)
		}
	})
}

func TestSTUNResponseTruncated(t *testing.T) {
	for _, c := range loadVectors(t).STUN {
		b := unhex(t, c.Hex)
		for n := range b {
			if _, addr, ok := parseBindingResponse(b[:n]); ok {
				t.Errorf("%s cut to %d bytes: accepted as %v", c.Name, n, addr)
			}
		}
	}
}
