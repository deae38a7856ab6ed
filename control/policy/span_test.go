package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// A span is written in the form of rules, and that form means the same addresses.
func TestSpanString(t *testing.T) {
	for _, c := range []struct{ first, last, want string }{
		{"1.2.3.4", "1.2.3.4", "1.2.3.4"},
		{"10.0.0.0", "10.255.255.255", "10.0.0.0/8"},
		{"0.0.0.0", "255.255.255.255", "0.0.0.0/0"},
		{"10.0.0.1", "10.0.0.2", "10.0.0.1-10.0.0.2"},
		{"10.0.0.0", "10.0.0.2", "10.0.0.0-10.0.0.2"},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"},
		{"fd00::1", "fd00::1", "fd00::1"},
		{"fd00::", "fd00::ff", "fd00::/120"},
	} {
		if got := spanOf(c.first, c.last).String(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// Merged spans contain the same addresses as before, sorted and not touching each other.
func TestMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	random := func() netip.Addr {
		low := []byte{0, 1, 2, 3, 4, 100, 254, 255}[rng.IntN(8)]
		if rng.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{255, 255, 255, low})
		}
		return netip.AddrFrom16([16]byte{15: low})
	}
	for range 1000 {
		var spans []span
		for range rng.IntN(6) {
			a, b := random(), random()
			if a.BitLen() == b.BitLen() && !b.Less(a) {
				spans = append(spans, span{a, b})
			}
		}
		merged := merge(slices.Clone(spans))
		for i, s := range merged {
			if i > 0 && (s.first.Less(merged[i-1].last) || merged[i-1].touches(s)) {
				t.Fatalf("%v merged to %v", spans, merged)
			}
		}
		for range 20 {
			a, b := random(), random()
			want := slices.ContainsFunc(spans, func(s span) bool { return s.contains(a) })
			if got := within(merged, a); got != want {
				t.Fatalf("%v in %v: got %v, want %v", a, merged, got, want)
			}
			if a.BitLen() != b.BitLen() || b.Less(a) {
				continue
			}
			want = len(overlaps(spans, []span{{a, b}})) > 0
			if got := meets(merged, span{a, b}); got != want {
				t.Fatalf("%v-%v meets %v: got %v, want %v", a, b, merged, got, want)
			}
		}
	}
}
