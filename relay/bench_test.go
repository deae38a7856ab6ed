package relay_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/relaytest"
	"ginnel/relay/server"
)

// BenchmarkPairs relays full-size packets over TLS on loopback, with clients and relay in one
// process. Each sender keeps a window of packets in flight, as the TCP inside would. One operation
// is one packet that arrived.
func BenchmarkPairs(b *testing.B) {
	for _, pairs := range []int{1, 2, 8, 32} {
		b.Run(fmt.Sprint(pairs), func(b *testing.B) {
			srv := startServer(b, server.Config{})
			var m meter
			m.want.Store(int64(b.N))
			m.donec = make(chan struct{})
			var wg sync.WaitGroup
			var flows []*benchFlow
			for range pairs {
				flows = append(flows, newBenchFlow(b, srv.region, &m))
			}
			b.ReportAllocs()
			b.ResetTimer()
			start := time.Now()
			for _, f := range flows {
				wg.Go(f.send)
			}
			<-m.donec
			b.StopTimer()
			m.report(b, time.Since(start))
			wg.Wait()
		})
	}
}

// meter counts the packets of all flows.
type meter struct {
	want, got, lost atomic.Int64
	once            sync.Once
	donec           chan struct{}
}

func (m *meter) received(n int) {
	if m.got.Add(int64(n)) >= m.want.Load() {
		m.once.Do(func() { close(m.donec) })
	}
}

func (m *meter) report(b *testing.B, d time.Duration) {
	got := float64(m.got.Load())
	b.ReportMetric(got*relaytest.PacketSize*8/1e6/d.Seconds(), "Mbit/s")
	b.ReportMetric(100*float64(m.lost.Load())/got, "%loss")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(d.Nanoseconds())/got, "ns/packet")
}

// benchFlow is a sending and a receiving client.
type benchFlow struct {
	m        *meter
	from, to *relay.Client
	peer     key.NodePublic
	gotc     chan int
}

const benchWindow = 512 // packets, some 750 kB

func newBenchFlow(b *testing.B, r *relay.Region, m *meter) *benchFlow {
	k := key.NewNodePrivate()
	f := &benchFlow{m: m, peer: k.Public(), gotc: make(chan int, benchWindow)}
	f.to = relay.DialTest(b, r, relay.ClientConfig{Key: k})
	f.from = relay.DialTest(b, r, relay.ClientConfig{})
	relay.WantKind(b, f.to, relay.MessageLoggedIn)
	relay.WantKind(b, f.from, relay.MessageLoggedIn)
	go relay.DrainMessages(f.from)
	go f.receive()
	return f
}

func (f *benchFlow) receive() {
	for {
		msgs, err := f.to.Recv()
		if err != nil {
			return
		}
		f.m.received(len(msgs))
		f.gotc <- len(msgs)
	}
}

func (f *benchFlow) send() {
	batch := relaytest.Batch(46)
	timer := time.NewTimer(time.Hour)
	for out := 0; ; out += len(batch) {
		for out+len(batch) > benchWindow {
			timer.Reset(50 * time.Millisecond)
			select {
			case n := <-f.gotc:
				out -= n
			case <-timer.C:
				f.m.lost.Add(int64(out))
				out = 0
			case <-f.m.donec:
				return
			}
		}
		select {
		case <-f.m.donec:
			return
		default:
			f.from.Send(f.peer, batch)
		}
	}
}

// BenchmarkRoundTrip sends one small packet to a peer that sends it back: four passes through TLS,
// two through the relay.
func BenchmarkRoundTrip(b *testing.B) {
	srv := startServer(b, server.Config{})
	ka, kb := key.NewNodePrivate(), key.NewNodePrivate()
	from := relay.DialTest(b, srv.region, relay.ClientConfig{Key: ka})
	to := relay.DialTest(b, srv.region, relay.ClientConfig{Key: kb})
	relay.WantKind(b, from, relay.MessageLoggedIn)
	relay.WantKind(b, to, relay.MessageLoggedIn)
	go func() {
		for {
			msgs, err := to.Recv()
			if err != nil {
				return
			}
			for _, m := range msgs {
				if m.Kind == relay.MessagePacket {
					to.Send(m.Peer, [][]byte{m.Data})
				}
			}
		}
	}()
	packet := [][]byte{make([]byte, 96)}
	b.ReportAllocs()
	for b.Loop() {
		from.Send(kb.Public(), packet)
		relay.WantKind(b, from, relay.MessagePacket)
	}
}

// BenchmarkHandshake connects and logs in.
func BenchmarkHandshake(b *testing.B) {
	srv := startServer(b, server.Config{})
	cfg := relay.ClientConfig{Key: key.NewNodePrivate()}
	b.ReportAllocs()
	for b.Loop() {
		c, err := relay.DialRegion(b.Context(), srv.region, cfg)
		if err != nil {
			b.Fatal(err)
		}
		relay.WantKind(b, c, relay.MessageLoggedIn)
		c.Close()
	}
}

// BenchmarkSend is a client's work for a batch of WireGuard packets, through TLS into the socket.
func BenchmarkSend(b *testing.B) {
	srv := startServer(b, server.Config{})
	c := relay.DialTest(b, srv.region, relay.ClientConfig{})
	relay.WantKind(b, c, relay.MessageLoggedIn)
	batch, to := relaytest.Batch(46), key.NewNodePrivate().Public() // nobody: the server drops them
	b.ReportAllocs()
	b.SetBytes(46 * relaytest.PacketSize)
	for b.Loop() {
		c.Send(to, batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/46, "ns/packet")
}
