package derpload

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// newRegion starts a relay with TLS and returns a region with it.
func newRegion(t *testing.T) *relay.Region {
	t.Helper()
	conf, pin, err := relayserver.SelfSignedTLS(t.TempDir(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := relayserver.New(relayserver.Config{Key: key.NewNodePrivate()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := relayserver.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln, s.TLSConfig(conf))
	t.Cleanup(func() { s.Close() })
	return regionAt(ln.Addr(), pin)
}

func regionAt(a net.Addr, pin string) *relay.Region {
	addr := netip.MustParseAddrPort(a.String())
	return &relay.Region{RegionID: 1, RegionCode: "test", RegionName: "Test", Nodes: []*relay.Node{{
		Name: "1a", RegionID: 1, HostName: addr.Addr().String(), CertName: pin, IPv4: addr.Addr().String(), IPv6: "none",
		DERPPort: int(addr.Port()), STUNPort: -1,
	}}}
}

// TestMeasure proves that each measurement gives its figures.
func TestMeasure(t *testing.T) {
	region := newRegion(t)
	for _, c := range []struct {
		spec Spec
		want []string
	}{
		{Spec{Kind: Flood, Pairs: 3, Batch: 1}, []string{"pps", "mbps"}},
		{Spec{Kind: Flood, Pairs: 1, Batch: 16}, []string{"pps", "mbps"}},
		{Spec{Kind: Trips}, []string{"p50_us", "p99_us"}},
		{Spec{Kind: Idle, Clients: 20}, nil},
	} {
		c.spec.Region, c.spec.PID, c.spec.Duration = region, os.Getpid(), 100*time.Millisecond
		f, err := Measure(t.Context(), c.spec)
		if err != nil {
			t.Errorf("%s: %v", c.spec.Kind, err)
			continue
		}
		for _, name := range c.want {
			if f[name] <= 0 {
				t.Errorf("%s: %s is %v", c.spec.Kind, name, f[name])
			}
		}
		if lost := f["lost_percent"]; lost != 0 {
			t.Errorf("%s: %v %% were lost", c.spec.Kind, lost)
		}
	}
}

// TestNoRelay proves that every measurement returns an error if the relay does not listen or has
// another certificate.
func TestNoRelay(t *testing.T) {
	other := newRegion(t)
	other.Nodes[0].CertName = "sha256-raw:" + "00000000000000000000000000000000000000000000000000000000000000aa"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := regionAt(ln.Addr(), "")
	ln.Close()
	for _, region := range []*relay.Region{other, gone} {
		for _, k := range []Kind{Flood, Trips, Idle} {
			s := Spec{Kind: k, Region: region, PID: os.Getpid(), Clients: 1, Pairs: 1, Batch: 1, Duration: time.Millisecond}
			if f, err := Measure(t.Context(), s); err == nil {
				t.Errorf("%s: got %v, want an error", k, f)
			}
		}
	}
	if _, err := Measure(t.Context(), Spec{Kind: "nonsense"}); err == nil {
		t.Error("unknown kind of measurement: want an error")
	}
}

// TestForeignPackets proves that packets that were not sent are errors and not counted.
func TestForeignPackets(t *testing.T) {
	good := relay.Message{Kind: relay.MessagePacket, Data: body}
	p := &pair{arrivedc: make(chan struct{}, 1)}
	if err := p.arrive(1, good); err != nil || p.arrived.Load() != 1 {
		t.Errorf("got %v, %d packets", err, p.arrived.Load())
	}
	bad := append([]byte(nil), body...)
	bad[packetSize-1] ^= 1
	for name, err := range map[string]error{
		"a byte is wrong":   p.arrive(1, relay.Message{Kind: relay.MessagePacket, Data: bad}),
		"a byte is missing": p.arrive(1, relay.Message{Kind: relay.MessagePacket, Data: body[1:]}),
		"wrong receiver":    p.arrive(0, good),
	} {
		if err == nil || p.arrived.Load() != 1 {
			t.Errorf("%s: got %v, %d packets", name, err, p.arrived.Load())
		}
	}
}
