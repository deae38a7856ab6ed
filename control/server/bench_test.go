package server

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/control/store"
	"ginnel/key"
)

// sink is a response that counts frames and discards them.
type sink struct {
	frames *atomic.Int64
	bytes  *atomic.Int64
	header http.Header
}

func (s *sink) Header() http.Header              { return s.header }
func (s *sink) WriteHeader(int)                  {}
func (s *sink) FlushError() error                { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) Write(p []byte) (int, error) {
	s.frames.Add(1)
	s.bytes.Add(int64(len(p)))
	return len(p), nil
}

// benchNet is a server with nodes whose streams end in sinks.
type benchNet struct {
	server        *Server
	nodes         []key.NodePublic
	frames, bytes atomic.Int64
	cancel        context.CancelFunc
	wg            sync.WaitGroup
}

func newBenchNet(tb testing.TB, size int, st Store) *benchNet {
	tb.Helper()
	s, err := New(Config{Store: st, URL: testURL, BaseDomain: "net.test", DERPMap: testRelays})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &benchNet{server: s, cancel: cancel}
	if _, err := s.CreateUser(ctx, "alice", ""); err != nil {
		tb.Fatal(err)
	}
	k, err := s.CreateAuthKey(ctx, AuthKeyRequest{User: "alice", Reusable: true})
	if err != nil {
		tb.Fatal(err)
	}
	n.nodes = make([]key.NodePublic, size)
	var joins sync.WaitGroup
	for i := range size {
		joins.Go(func() { n.nodes[i] = n.join(tb, fmt.Sprintf("node-%d", i), k.Key) })
	}
	joins.Wait()
	for _, k := range n.nodes {
		n.wg.Go(func() { n.stream(ctx, k) })
	}
	for n.frames.Load() < int64(size) {
		time.Sleep(time.Millisecond)
	}
	n.quiesce()
	return n
}

func (n *benchNet) join(tb testing.TB, host, authKey string) key.NodePublic {
	r := &registration{machine: key.NewMachinePrivate().Public(), req: &control.RegisterRequest{
		Version: control.CapabilityVersion, NodeKey: key.NewNodePrivate().Public(),
		Auth: &control.RegisterAuth{AuthKey: authKey}, Hostinfo: &control.Hostinfo{Hostname: host, OS: "linux"},
	}}
	core := n.server.core
	if err := core.change(context.Background(), func(t *tx) error { return core.register(t, r) }); err != nil {
		tb.Error(err)
	}
	return r.req.NodeKey
}

func (n *benchNet) stream(ctx context.Context, k key.NodePublic) {
	core := n.server.core
	s := &stream{endc: make(chan struct{})}
	core.change(ctx, func(t *tx) error {
		s.id = t.nodeByKey(k).rec.ID
		core.beginStream(t, s)
		return nil
	})
	core.serveStream(ctx, &sink{frames: &n.frames, bytes: &n.bytes, header: make(http.Header)}, s, control.CompressZstd)
}

// quiesce waits until no more frames are written.
func (n *benchNet) quiesce() {
	for last := int64(-1); n.frames.Load() != last; time.Sleep(2 * maxInterval) {
		last = n.frames.Load()
	}
}

// move changes the endpoint of a node.
func (n *benchNet) move(i int) error {
	req := &control.MapRequest{Version: control.CapabilityVersion, Endpoints: []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 16), byte(i >> 8)}), uint16(i)+1),
	}}
	return n.server.core.change(context.Background(), func(t *tx) error {
		t.update(t.nodeByKey(n.nodes[0]), req, everything)
		return nil
	})
}

func (n *benchNet) close() {
	n.cancel()
	n.wg.Wait()
	n.server.Close()
}

// BenchmarkChange measures one change of one node with a given number of streams, without
// encryption and HTTP. The time per operation includes the interval between steps. The metric
// frames counts the frames that were written.
func BenchmarkChange(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			n := newBenchNet(b, size, store.NewMemory())
			defer n.close()
			frames, bytes := n.frames.Load(), n.bytes.Load()
			start := cpuTime()
			i := 0
			for b.Loop() {
				want := n.frames.Load() + int64(size)
				i++
				if err := n.move(i); err != nil {
					b.Fatal(err)
				}
				for n.frames.Load() < want {
					time.Sleep(time.Millisecond)
				}
			}
			b.ReportMetric(float64(n.frames.Load()-frames)/float64(b.N), "frames/op")
			b.ReportMetric(float64(n.bytes.Load()-bytes)/float64(b.N), "bytes/op")
			b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkFirstFrame measures the encoding of a full map.
func BenchmarkFirstFrame(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			n := newBenchNet(b, size, store.NewMemory())
			defer n.close()
			v := n.server.core.latest.Load()
			b.ReportAllocs()
			for b.Loop() {
				resp := v.fullMap(&clientState{id: 1}, "net.test", time.Now())
				if _, err := control.AppendFrame(nil, resp, control.CompressZstd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkJoin measures concurrent registrations with a store on a disk.
func BenchmarkJoin(b *testing.B) {
	st, err := store.Open(b.TempDir() + "/bench.db")
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	n := newBenchNet(b, 0, st)
	defer n.close()
	k, err := n.server.CreateAuthKey(b.Context(), AuthKeyRequest{User: "alice", Reusable: true, Ephemeral: true})
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(500)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n.join(b, "job", k.Key)
		}
	})
}
