package server

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

func TestSTUNVectors(t *testing.T) {
	f := relaytest.LoadVectors(t)
	var r stunResponder
	for name, from := range map[string]string{"stun_response_ipv4": "203.0.113.7:41641",
		"stun_response_ipv6": "[2001:db8::17]:41641"} {
		got, ok := r.answer(f.Find(t, "stun_request"), netip.MustParseAddrPort(from))
		if want := f.Find(t, name); !ok || !bytes.Equal(got, want) {
			t.Errorf("from %s: got %x, want %x", from, got, want)
		}
	}
	// A client of a dual-stack socket is answered with its IPv4 address, shorter than by the
	// reference.
	got, ok := r.answer(f.Find(t, "stun_request"), netip.MustParseAddrPort("[::ffff:203.0.113.7]:41641"))
	if want := f.Find(t, "stun_response_ipv4"); !ok || !bytes.Equal(got, want) {
		t.Errorf("mapped address: got %x, want %x", got, want)
	}
	covered := 0
	for _, v := range f.STUN {
		if v.Expect == "no answer" {
			covered++
			if got, ok := r.answer(v.Bytes(t), netip.MustParseAddrPort("203.0.113.7:1")); ok {
				t.Errorf("%s is answered with %x", v.Name, got)
			}
		}
	}
	if covered != 2 {
		t.Errorf("%d vectors without an answer", covered)
	}
}

// A request that is cut at any length, or changed in any byte except those of the transaction id,
// gets no answer.
func TestSTUNStrict(t *testing.T) {
	good := relaytest.LoadVectors(t).Find(t, "stun_request")
	from := netip.MustParseAddrPort("203.0.113.7:41641")
	var r stunResponder
	for n := range good {
		if _, ok := r.answer(good[:n], from); ok {
			t.Errorf("answer to %d bytes", n)
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x40
		if _, ok := r.answer(b, from); ok {
			t.Errorf("answer with byte %d changed", i)
		}
	}
	if _, ok := r.answer(append(bytes.Clone(good), 0, 0, 0, 0), from); ok {
		t.Error("answer with something behind the fingerprint")
	}
}

func TestSTUNAllocates(t *testing.T) {
	good := relaytest.LoadVectors(t).Find(t, "stun_request")
	from := netip.MustParseAddrPort("203.0.113.7:41641")
	var r stunResponder
	r.answer(good, from)
	if n := testing.AllocsPerRun(100, func() { r.answer(good, from) }); n > 3 {
		t.Errorf("%v allocations for a request", n)
	}
}

func TestServeSTUN(t *testing.T) {
	s := newTestServer(t, Config{})
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	errc := make(chan error, 1)
	go func() { errc <- s.ServeSTUN(conn) }()
	client, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(10 * time.Second))
	f := relaytest.LoadVectors(t)
	buf := make([]byte, 100)
	for _, name := range []string{"stun_request_bad_fingerprint", "stun_request_without_software", "stun_request"} {
		if _, err := client.Write(f.Find(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	n, err := client.Read(buf)
	if err != nil || n != 32 {
		t.Errorf("answer %x, %v", buf[:n], err)
	}
	s.Close()
	if err := <-errc; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServeSTUN = %v", err)
	}
	rawpeer.WantMetric(t, s, `ginnel_relay_stun_requests_total{disposition="success"}`, 1)
	rawpeer.WantMetric(t, s, `ginnel_relay_stun_requests_total{disposition="not_stun"}`, 2)
	again, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ServeSTUN(again); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServeSTUN after Close = %v", err)
	}
}

func BenchmarkSTUN(b *testing.B) {
	good := relaytest.LoadVectors(b).Find(b, "stun_request")
	from := netip.MustParseAddrPort("203.0.113.7:41641")
	var r stunResponder
	b.ReportAllocs()
	for b.Loop() {
		r.answer(good, from)
	}
}
