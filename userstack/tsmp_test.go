package userstack

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

// A ping is answered if the filter lets it in, in both families, and nothing else of that protocol is.
func TestTSMP(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.SetAddrs([]netip.Prefix{netip.MustParsePrefix("100.64.0.1/32"), netip.MustParsePrefix("fd7a:115c:a1e0::1/128")}); err != nil {
		t.Fatal(err)
	}
	const (
		ping4    = "4500001d000000004063000064400002" + "64400001" + "70" + "0102030405060708"
		pong4    = "4500001f000000004063b1f9" + "64400001" + "64400002" + "6f" + "0102030405060708" + "0000"
		ping6    = "6000000000096340" + "fd7a115ca1e000000000000000000002" + "fd7a115ca1e000000000000000000001" + "70" + "0102030405060708"
		pong6    = "60000000000b6340" + "fd7a115ca1e000000000000000000001" + "fd7a115ca1e000000000000000000002" + "6f" + "0102030405060708" + "0000"
		unasked4 = "4500001f000000004063000064400002" + "64400001" + "6f" + "0102030405060708" + "0000"
		short4   = "4500001c000000004063000064400002" + "64400001" + "70" + "01020304050607"
		later4   = "45000014000000014063000064400002" + "64400001" // a fragment, and nothing without its first
	)
	write := func(packets ...string) {
		for _, p := range packets {
			if _, err := s.Device().Write([][]byte{unhex(t, p)}, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(ping4) // nothing comes in yet
	s.SetFilter(func(f Flow) bool { return f.Protocol == TSMP && f.Dst.Addr().Is4() == f.Src.Addr().Is4() })
	write(unasked4, short4, later4, ping4, ping6)
	for _, want := range []string{pong4, pong6} {
		bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
		for i := range bufs {
			bufs[i] = make([]byte, 1500)
		}
		n, err := s.Device().Read(bufs[:1], sizes, 0)
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if got := hex.EncodeToString(bufs[0][:sizes[0]]); got != want {
			t.Errorf("answer\n%s, want\n%s", got, want)
		}
	}
	if got := s.dev.refused.Load(); got != 3 {
		t.Errorf("%d packets were refused, want 3", got)
	}
}
