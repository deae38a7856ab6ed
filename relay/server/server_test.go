package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

var testMeshKey = derp.MeshKey{1, 2, 3}

// Each malformed vector for servers has the effect on a real connection that the vector states.
func TestServerVectors(t *testing.T) {
	f := relaytest.LoadVectors(t)
	covered := 0
	for _, v := range f.Malformed {
		if strings.HasPrefix(v.Expect, "client ") {
			continue // TestClientVectors
		}
		covered++
		t.Run(v.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { serverVector(t, f, &v) })
		})
	}
	if covered != 18 {
		t.Errorf("%d vectors covered", covered)
	}
}

func serverVector(t *testing.T, f *relaytest.VectorFile, v *relaytest.Vector) {
	r := startMemRelay(t, Config{Key: f.Private(t, "server"), MeshKey: testMeshKey})
	var p *rawpeer.Peer
	switch {
	case isHandshake(v.Name):
		p = r.Dial()
		p.Key = f.Private(t, "client")
		p.Upgrade(r.public, "")
	case v.Inputs["frame_type"] == "0x0a" || strings.Contains(v.Name, "close_peer") ||
		v.Name == "watch_conns_with_payload":
		p = r.MeshClient()
		if strings.Contains(v.Name, "without_mesh_key") {
			p = r.Client()
		}
	default:
		p = r.Client()
	}
	p.Write(v.Bytes(t))
	switch v.Expect {
	case "server skips the payload and stays connected":
		p.Ping()
		r.wantMetric(t, "ginnel_relay_unknown_frames_total", 1)
	case "server accepts it as an ordinary client":
		p.WantFrame(derp.FrameServerInfo)
		p.Write(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
		p.WantClosed()
	default:
		if !strings.HasPrefix(v.Expect, "server closes the connection") {
			t.Fatalf("unknown expectation %q", v.Expect)
		}
		start := time.Now()
		p.WantClosed()
		if time.Since(start) != 0 {
			t.Errorf("closed only after %v", time.Since(start))
		}
	}
}

func isHandshake(name string) bool {
	return strings.HasPrefix(name, "client_info") || name == "first_frame_not_client_info"
}

// The well-formed frames of the vectors have the effects of section 4.
func TestServerForwardsVectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := relaytest.LoadVectors(t)
		mesh, err := derp.ParseMeshKey(f.Keys["mesh_key_hex"])
		if err != nil {
			t.Fatal(err)
		}
		r := startMemRelay(t, Config{Key: f.Private(t, "server"), MeshKey: mesh})
		// The logins are those of the vectors.
		client := r.Dial()
		client.Upgrade(r.public, "")
		client.Write(f.Find(t, "client_info_regular"))
		client.WantFrame(derp.FrameServerInfo)
		peer := r.ClientWithKey(f.Private(t, "peer"))

		for send, recv := range map[string]string{"send_packet": "recv_packet",
			"send_packet_empty": "recv_packet_empty"} {
			client.Write(f.Find(t, send))
			want := f.Find(t, recv)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(peer.Reader, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: receiver got %x, want %x", send, got, want)
			}
		}
		client.Write(f.Find(t, "send_packet_disco"))
		if got, want := peer.WantFrame(derp.FrameRecvPacket)[key.Size:],
			f.Find(t, "send_packet_disco")[derp.SendOverhead:]; !bytes.Equal(got, want) {
			t.Errorf("disco packet became %x", got)
		}
		for _, name := range []string{"ping", "ping_long"} {
			client.Write(f.Find(t, name))
			if got, want := client.WantFrame(derp.FramePong),
				f.Find(t, "pong")[derp.HeaderSize:]; !bytes.Equal(got, want) {
				t.Errorf("%s is answered with %x, want %x", name, got, want)
			}
		}
		for _, name := range []string{"note_preferred_true", "note_preferred_false", "unknown_frame", "pong",
			"keep_alive", "health_problem"} {
			client.Write(f.Find(t, name))
		}
		client.Ping()

		// A mesh server: its own login comes from another key here, as the vectors have one client only.
		watcher := r.MeshClient()
		watcher.Write(f.Find(t, "watch_conns"))
		for range 3 {
			watcher.WantPresent()
		}
		watcher.Write(f.Find(t, "forward_packet"))
		peer.WantPacket(f.Public(t, "client"), "hello derp")
		watcher.Write(f.Find(t, "close_peer"))
		peer.WantClosed()
		watcher.WantGone(peer.Public(), derp.GoneDisconnected)

		other := r.Dial()
		other.Upgrade(r.public, "")
		other.Write(f.Find(t, "client_info_prober"))
		other.WantFrame(derp.FrameServerInfo)
		// The same key again, as a mesh peer: the flags change.
		if got := watcher.WantPresent(); got.Flags != derp.PresentProber || got.Peer != f.Public(t, "client") {
			t.Errorf("prober is announced as %+v", got)
		}
		other.Conn.Close()
		again := r.Dial()
		again.Upgrade(r.public, "")
		again.Write(f.Find(t, "client_info_mesh"))
		again.WantFrame(derp.FrameServerInfo)
		if got := watcher.WantPresent(); got.Flags != derp.PresentMesh {
			t.Errorf("mesh peer is announced as %+v", got)
		}
	})
}

// ServerInfo is the second frame, even if packets are queued already (2.1).
func TestServerInfoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a, k := r.Client(), key.NewNodePrivate()
		slow := r.ClientWithKey(k)
		slow.WantIdle()
		for range 20 { // a new connection with the key of one that gets packets all the time
			a.Send(k.Public(), "x")
			p := r.Dial()
			p.Key = k
			p.Upgrade(r.public, "")
			a.Send(k.Public(), "x")
			p.Login(r.public, derp.ClientInfo{Version: 2})
			p.Conn.Close()
		}
	})
}

// "KeepAlive is sent each interval regardless of other traffic" (4.4), here every 20 to 24 s.
func TestServerKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a, b := r.Client(), r.Client()
		start := time.Now()
		go func() {
			for time.Since(start) < 298*time.Second {
				time.Sleep(time.Second)
				a.Send(b.Public(), "busy")
			}
		}()
		alive := 0
		for time.Since(start) < 299*time.Second {
			b.Conn.SetReadDeadline(start.Add(299 * time.Second))
			typ, _, err := b.Next()
			if relaytest.IsTimeout(err) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if typ == derp.FrameKeepAlive {
				alive++
				each := time.Since(start) / time.Duration(alive)
				if each < keepAliveMin*keepAliveTick || each > (keepAliveMin+keepAliveSpread)*keepAliveTick {
					t.Errorf("KeepAlive %d after %v", alive, time.Since(start))
				}
			}
		}
		if alive < 12 || alive > 14 {
			t.Errorf("%d KeepAlives in 300 s", alive)
		}
	})
}

// One goroutine sends the keepalives of all connections, and ends with the last connection.
func TestServerKeepAliveStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		var ps []*rawpeer.Peer
		for range 50 {
			ps = append(ps, r.Client())
		}
		time.Sleep(66 * time.Second)
		for _, p := range ps {
			p.WantFrame(derp.FrameKeepAlive)
			p.Conn.Close()
		}
		time.Sleep(2 * keepAliveTick)
		r.keepAlives.mu.Lock()
		if r.keepAlives.running || r.keepAlives.size != 0 {
			t.Errorf("running = %v with %d connections", r.keepAlives.running, r.keepAlives.size)
		}
		r.keepAlives.mu.Unlock()
		p := r.Client()
		time.Sleep(66 * time.Second)
		p.WantFrame(derp.FrameKeepAlive)
	})
}

// The largest packet passes, and so does one after it.
func TestServerLargestPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a, b := r.Client(), r.Client()
		large := strings.Repeat("L", derp.MaxPacket)
		a.Send(b.Public(), large)
		b.WantPacket(a.Public(), large)
		a.Send(b.Public(), "small") // and after it a small one
		b.WantPacket(a.Public(), "small")
	})
}

// A connection without a login in time is closed (2.6).
func TestServerLoginTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		p := r.Dial()
		p.Upgrade(r.public, "")
		p.Write([]byte{byte(derp.FrameClientInfo), 0})
		start := time.Now()
		p.WantClosed()
		if d := time.Since(start); d != loginTimeout {
			t.Errorf("closed after %v", d)
		}
		r.wantMetric(t, `ginnel_relay_refused_connections_total{reason="handshake"}`, 1)

		// A request that does not come.
		p = r.Dial()
		p.Write([]byte("GET /derp HTT"))
		start = time.Now()
		p.WantClosed()
		if d := time.Since(start); d != requestTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

// Shutdown tells clients when to come back, and waits for those that read it.
func TestServerShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{WriteTimeout: time.Hour})
		r.Net.Limit = 10_000
		stuck := r.Client()
		r.Net.Limit = 256 << 10
		a, halfway := r.Client(), r.Dial()
		halfway.Upgrade(r.public, "")
		for range 50 {
			a.Send(stuck.Public(), strings.Repeat("x", 1000))
		}
		synctest.Wait()
		go func() {
			p := a.WantFrame(derp.FrameRestarting)
			if advice, ok := derp.ParseRestarting(p); !ok || advice.TryFor == 0 {
				t.Errorf("advice %+v", advice)
			}
			a.WantClosed()
			halfway.WantClosed()
		}()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("shutting down took %v, want as long as the stuck client was waited for", d)
		}
		if _, err := r.Net.DialContext(t.Context(), "tcp", "relay.example:80"); err == nil {
			t.Error("still listening")
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		ln := r.Net.Listen("relay.example:81")
		if err := r.Serve(ln, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve after Close = %v", err)
		}
		if err := r.Mesh(rawpeer.URL, relay.ClientConfig{}); err == nil {
			t.Error("Mesh after Close succeeded")
		}
	})
}

// Close ends at once whatever waits: logins, clients, throttled readers, senders that wait for
// room.
func TestServerCloseIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{ClientRate: 1000, WriteTimeout: time.Hour})
		r.Net.Limit = 1000
		stuck := r.Client()
		r.Net.Limit = 1 << 20
		a, halfway := r.Client(), r.Dial()
		halfway.Upgrade(r.public, "")
		for range 500 {
			a.Send(stuck.Public(), strings.Repeat("x", 1000))
		}
		time.Sleep(time.Second)
		start := time.Now()
		r.Close()
		if d := time.Since(start); d > 2*sendPatience {
			t.Errorf("closing took %v", d)
		}
	})
}

// The bytes behind the request of a fast start are DERP frames (1.7), and the request gets no HTTP
// answer.
func TestServerFastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := relaytest.LoadVectors(t)
		r := startMemRelay(t, Config{Key: f.Private(t, "server"), MeshKey: testMeshKey})
		watcher := r.MeshClient()
		watcher.Write(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
		watcher.WantPresent()
		p := r.Dial()
		shared := f.Shared(t)
		b := append(f.Find(t, "http_request_fast_start"), f.Find(t, "client_info_regular")...)
		b = derp.AppendSendPacket(b, f.Public(t, "client"), []byte("early"))
		p.Write(b)
		p.WantFrame(derp.FrameServerKey)
		if _, err := derp.OpenServerInfo(shared, p.WantFrame(derp.FrameServerInfo)); err != nil {
			t.Error(err)
		}
		p.WantPacket(f.Public(t, "client"), "early")
		// The vector's request says that another node would have been ideal.
		if got := watcher.WantPresent(); got.Flags != derp.PresentNotIdeal ||
			got.Addr.Addr().String() != "198.51.100.1" {
			t.Errorf("announced as %+v", got)
		}
		r.wantMetric(t, "ginnel_relay_not_ideal_connections", 1)
		p.Conn.Close()
		synctest.Wait()
		r.wantMetric(t, "ginnel_relay_not_ideal_connections", 0)
	})
}

func TestServerHomeMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a, b := r.Client(), r.Client()
		for _, p := range []*rawpeer.Peer{a, b} {
			p.Write(derp.AppendNotePreferred(nil, derp.IsHome))
			p.Write(derp.AppendNotePreferred(nil, derp.IsHome))
			p.Ping()
		}
		r.wantMetric(t, "ginnel_relay_home_connections", 2)
		r.wantMetric(t, `ginnel_relay_home_moves_total{direction="in"}`, 2)
		a.Write(derp.AppendNotePreferred(nil, derp.NotHome))
		a.Ping()
		b.Conn.Close()
		synctest.Wait()
		r.wantMetric(t, "ginnel_relay_home_connections", 0)
		r.wantMetric(t, `ginnel_relay_home_moves_total{direction="out"}`, 1)
		r.wantMetric(t, "ginnel_relay_connections", 1)
		r.wantMetric(t, `ginnel_relay_clients{where="local"}`, 1)
		r.wantMetric(t, `ginnel_relay_accepted_connections_total{transport="derp"}`, 2)
	})
}

func TestServerNeedsKey(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("server without a key")
	}
}
