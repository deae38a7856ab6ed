package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

var testMeshKey = MeshKey{1, 2, 3}

// Each malformed vector for the server, against a real connection.
func TestServerVectors(t *testing.T) {
	f := loadVectors(t)
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

func serverVector(t *testing.T, f *vectorFile, v *vector) {
	r := startMemRelay(t, ServerConfig{Key: f.private(t, "server"), MeshKey: testMeshKey})
	var p *rawPeer
	switch {
	case isHandshake(v.Name):
		p = r.dial()
		p.key = f.private(t, "client")
		p.upgrade(r.public, "")
	case v.Inputs["frame_type"] == "0x0a" || strings.Contains(v.Name, "close_peer") || v.Name == "watch_conns_with_payload":
		p = r.meshClient()
		if strings.Contains(v.Name, "without_mesh_key") {
			p = r.client()
		}
	default:
		p = r.client()
	}
	p.write(v.bytes(t))
	switch v.Expect {
	case "server skips the payload and stays connected":
		p.ping()
		r.wantMetric(t, "ginnel_relay_unknown_frames_total", 1)
	case "server accepts it as an ordinary client":
		p.wantFrame(frameServerInfo)
		p.write(appendHeader(nil, frameWatchConns, 0))
		p.wantClosed()
	default:
		if !strings.HasPrefix(v.Expect, "server closes the connection") {
			t.Fatalf("unknown expectation %q", v.Expect)
		}
		start := time.Now()
		p.wantClosed()
		if time.Since(start) != 0 {
			t.Errorf("closed only after %v", time.Since(start))
		}
	}
}

func isHandshake(name string) bool {
	return strings.HasPrefix(name, "client_info") || name == "first_frame_not_client_info"
}

// The good frames of the vectors do at the server what section 4 says.
func TestServerForwardsVectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := loadVectors(t)
		mesh, err := ParseMeshKey(f.Keys["mesh_key_hex"])
		if err != nil {
			t.Fatal(err)
		}
		r := startMemRelay(t, ServerConfig{Key: f.private(t, "server"), MeshKey: mesh})
		// The logins are those of the vectors.
		client := r.dial()
		client.upgrade(r.public, "")
		client.write(f.find(t, "client_info_regular"))
		client.wantFrame(frameServerInfo)
		peer := r.clientWithKey(f.private(t, "peer"))

		for send, recv := range map[string]string{"send_packet": "recv_packet", "send_packet_empty": "recv_packet_empty"} {
			client.write(f.find(t, send))
			want := f.find(t, recv)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(peer.br, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: receiver got %x, want %x", send, got, want)
			}
		}
		client.write(f.find(t, "send_packet_disco"))
		if got, want := peer.wantFrame(frameRecvPacket)[key.Size:], f.find(t, "send_packet_disco")[sendOverhead:]; !bytes.Equal(got, want) {
			t.Errorf("disco packet became %x", got)
		}
		for _, name := range []string{"ping", "ping_long"} {
			client.write(f.find(t, name))
			if got, want := client.wantFrame(framePong), f.find(t, "pong")[headerSize:]; !bytes.Equal(got, want) {
				t.Errorf("%s is answered with %x, want %x", name, got, want)
			}
		}
		for _, name := range []string{"note_preferred_true", "note_preferred_false", "unknown_frame", "pong", "keep_alive", "health_problem"} {
			client.write(f.find(t, name))
		}
		client.ping()

		// A mesh server: its own login comes from another key here, as the vectors have one client only.
		watcher := r.meshClient()
		watcher.write(f.find(t, "watch_conns"))
		for range 3 {
			watcher.wantPresent()
		}
		watcher.write(f.find(t, "forward_packet"))
		peer.wantPacket(f.public(t, "client"), "hello derp")
		watcher.write(f.find(t, "close_peer"))
		peer.wantClosed()
		watcher.wantGone(peer.public(), goneDisconnected)

		other := r.dial()
		other.upgrade(r.public, "")
		other.write(f.find(t, "client_info_prober"))
		other.wantFrame(frameServerInfo)
		// The same key again, as a mesh peer: the flags change.
		if got := watcher.wantPresent(); got.flags != presentProber || got.peer != f.public(t, "client") {
			t.Errorf("prober is announced as %+v", got)
		}
		other.conn.Close()
		again := r.dial()
		again.upgrade(r.public, "")
		again.write(f.find(t, "client_info_mesh"))
		again.wantFrame(frameServerInfo)
		if got := watcher.wantPresent(); got.flags != presentMesh {
			t.Errorf("mesh peer is announced as %+v", got)
		}
	})
}

// ServerInfo is the second frame even if packets wait already (2.1).
func TestServerInfoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a, k := r.client(), key.NewNodePrivate()
		slow := r.clientWithKey(k)
		slow.wantIdle()
		for range 20 { // a new connection with the key of one that gets packets all the time
			a.send(k.Public(), "x")
			p := r.dial()
			p.key = k
			p.upgrade(r.public, "")
			a.send(k.Public(), "x")
			p.login(r.public, clientInfo{Version: 2})
			p.conn.Close()
		}
	})
}

// "KeepAlive is sent each interval regardless of other traffic" (4.4), of 20 to 24 s.
func TestServerKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a, b := r.client(), r.client()
		start := time.Now()
		go func() {
			for time.Since(start) < 298*time.Second {
				time.Sleep(time.Second)
				a.send(b.public(), "busy")
			}
		}()
		alive := 0
		for time.Since(start) < 299*time.Second {
			b.conn.SetReadDeadline(start.Add(299 * time.Second))
			typ, _, err := b.next()
			if isTimeout(err) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if typ == frameKeepAlive {
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

// Keepalives of many connections need no goroutine each, and stop when the connections do.
func TestServerKeepAliveStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		var ps []*rawPeer
		for range 50 {
			ps = append(ps, r.client())
		}
		time.Sleep(66 * time.Second)
		for _, p := range ps {
			p.wantFrame(frameKeepAlive)
			p.conn.Close()
		}
		time.Sleep(2 * keepAliveTick)
		r.keep.mu.Lock()
		if r.keep.running || r.keep.size != 0 {
			t.Errorf("running = %v with %d connections", r.keep.running, r.keep.size)
		}
		r.keep.mu.Unlock()
		p := r.client()
		time.Sleep(66 * time.Second)
		p.wantFrame(frameKeepAlive)
	})
}

// Section 4.5: who is told that a peer is gone, and why. "NotHere is sent only if the dropped
// packet is disco-looking, and limited ...: burst 3, refill 1 per second" (4.5). Section 4.6: of
// several connections with one key, the one heard last gets the packets.
func TestServerLargestPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a, b := r.client(), r.client()
		large := strings.Repeat("L", MaxPacket)
		a.send(b.public(), large)
		b.wantPacket(a.public(), large)
		a.send(b.public(), "small") // and after it a small one
		b.wantPacket(a.public(), "small")
	})
}

// A login that does not come in time ends the connection (2.6).
func TestServerLoginTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		p := r.dial()
		p.upgrade(r.public, "")
		p.write([]byte{byte(frameClientInfo), 0})
		start := time.Now()
		p.wantClosed()
		if d := time.Since(start); d != loginTimeout {
			t.Errorf("closed after %v", d)
		}
		r.wantMetric(t, `ginnel_relay_refused_connections_total{reason="handshake"}`, 1)

		// A request that does not come.
		p = r.dial()
		p.write([]byte("GET /derp HTT"))
		start = time.Now()
		p.wantClosed()
		if d := time.Since(start); d != requestTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

// A client that takes nothing is cut after the write time limit, a mesh peer much later (4.3).
// Three senders to one slow reader get equal shares, a fourth one with little to send gets all of
// it through. One stuck receiver does not hold up what its sender sends to others. A slow receiver
// slows its only sender down instead of losing its packets; a sender with another destination is
// slowed down by little. A sender with several destinations is not slowed down to the pace of the
// slowest: it may wait for a ninth of its time. Section 4.7: the rate of a client is kept by
// reading from it more slowly; nothing is lost. Shutting down tells clients when to come back, and
// waits for those that take it.
func TestServerShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{WriteTimeout: time.Hour})
		r.net.limit = 10_000
		stuck := r.client()
		r.net.limit = 256 << 10
		a, halfway := r.client(), r.dial()
		halfway.upgrade(r.public, "")
		for range 50 {
			a.send(stuck.public(), strings.Repeat("x", 1000))
		}
		synctest.Wait()
		go func() {
			p := a.wantFrame(frameRestarting)
			if advice, ok := parseRestarting(p); !ok || advice.tryFor == 0 {
				t.Errorf("advice %+v", advice)
			}
			a.wantClosed()
			halfway.wantClosed()
		}()
		start := time.Now()
		ctx, cancel := contextTimeout(t, 3*time.Second)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("shutting down took %v, want as long as the stuck client was waited for", d)
		}
		if _, err := r.net.DialContext(t.Context(), "tcp", "relay.example:80"); err == nil {
			t.Error("still listening")
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		ln := r.net.listen("relay.example:81")
		if err := r.Serve(ln, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve after Close = %v", err)
		}
		if err := r.Mesh(memURL, ClientConfig{}); err == nil {
			t.Error("Mesh after Close succeeded")
		}
	})
}

// Closing ends at once what waits: logins, clients, throttled readers, senders in back-pressure.
func TestServerCloseIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{ClientRate: 1000, WriteTimeout: time.Hour})
		r.net.limit = 1000
		stuck := r.client()
		r.net.limit = 1 << 20
		a, halfway := r.client(), r.dial()
		halfway.upgrade(r.public, "")
		for range 500 {
			a.send(stuck.public(), strings.Repeat("x", 1000))
		}
		time.Sleep(time.Second)
		start := time.Now()
		r.Close()
		if d := time.Since(start); d > 2*sendPatience {
			t.Errorf("closing took %v", d)
		}
	})
}

// Section 6.2, with the vectors' request and answer. A refused client gets no frame; a mesh peer is
// not asked about; closing does not wait for the controller. The early bytes of a fast start belong
// to DERP (1.7), and there is no HTTP answer to it.
func TestServerFastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := loadVectors(t)
		r := startMemRelay(t, ServerConfig{Key: f.private(t, "server"), MeshKey: testMeshKey})
		watcher := r.meshClient()
		watcher.write(appendHeader(nil, frameWatchConns, 0))
		watcher.wantPresent()
		p := r.dial()
		shared := sharedVector(t, f)
		b := append(f.find(t, "http_request_fast_start"), f.find(t, "client_info_regular")...)
		b = appendSendPacket(b, f.public(t, "client"), []byte("early"))
		p.write(b)
		p.wantFrame(frameServerKey)
		if _, err := openServerInfo(shared, p.wantFrame(frameServerInfo)); err != nil {
			t.Error(err)
		}
		p.wantPacket(f.public(t, "client"), "early")
		// The vector's request says that another node would have been ideal.
		if got := watcher.wantPresent(); got.flags != presentNotIdeal || got.addr.Addr().String() != "198.51.100.1" {
			t.Errorf("announced as %+v", got)
		}
		r.wantMetric(t, "ginnel_relay_not_ideal_connections", 1)
		p.conn.Close()
		synctest.Wait()
		r.wantMetric(t, "ginnel_relay_not_ideal_connections", 0)
	})
}

func TestServerHomeMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a, b := r.client(), r.client()
		for _, p := range []*rawPeer{a, b} {
			p.write(appendNotePreferred(nil, isHome))
			p.write(appendNotePreferred(nil, isHome))
			p.ping()
		}
		r.wantMetric(t, "ginnel_relay_home_connections", 2)
		r.wantMetric(t, `ginnel_relay_home_moves_total{direction="in"}`, 2)
		a.write(appendNotePreferred(nil, notHome))
		a.ping()
		b.conn.Close()
		synctest.Wait()
		r.wantMetric(t, "ginnel_relay_home_connections", 0)
		r.wantMetric(t, `ginnel_relay_home_moves_total{direction="out"}`, 1)
		r.wantMetric(t, "ginnel_relay_connections", 1)
		r.wantMetric(t, `ginnel_relay_clients{where="local"}`, 1)
		r.wantMetric(t, `ginnel_relay_accepted_connections_total{transport="derp"}`, 2)
	})
}

// Only one Pong is pending for a client that does not read (3.11).
func TestServerNeedsKey(t *testing.T) {
	if _, err := NewServer(ServerConfig{}); err == nil {
		t.Error("server without a key")
	}
}
