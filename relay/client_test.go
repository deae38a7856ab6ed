package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

// Each malformed vector for clients has the effect on a real client that the vector states.
func TestClientVectors(t *testing.T) {
	f := relaytest.LoadVectors(t)
	covered := 0
	for _, v := range f.Malformed {
		if !strings.HasPrefix(v.Expect, "client ") {
			continue
		}
		covered++
		t.Run(v.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := rawpeer.StartServer(t)
				s.Key = f.Private(t, "server")
				c, p := clientOf(s, ClientConfig{Key: f.Private(t, "client")})
				p.Write(v.Bytes(t))
				switch v.Expect {
				case "client drops the frame and stays connected":
					p.Write(f.Find(t, "recv_packet"))
					if m := WantKind(t, c, MessagePacket); string(m.Data) != "hello derp" {
						t.Errorf("got %q", m.Data)
					}
				case "client fails the connection":
					if msgs, err := c.Recv(); err == nil {
						t.Errorf("got %+v, want an error", msgs)
					}
					p.WantClosed()
				default:
					t.Fatalf("unknown expectation %q", v.Expect)
				}
			})
		})
	}
	if covered != 7 {
		t.Errorf("%d vectors covered", covered)
	}
}

// The client hands on the well-formed frames of the vectors, and skips those that it must ignore.
func TestClientReceivesVectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := relaytest.LoadVectors(t)
		s := rawpeer.StartServer(t)
		s.Key = f.Private(t, "server")
		c, p := clientOf(s, ClientConfig{Key: f.Private(t, "client")})
		peer, client := f.Public(t, "peer"), f.Public(t, "client")
		want := map[string]Message{
			"recv_packet":            {MessagePacket, client, []byte("hello derp")},
			"recv_packet_empty":      {MessagePacket, client, nil},
			"peer_gone_disconnected": {MessagePeerGone, peer, nil},
			"peer_gone_not_here":     {MessagePeerGone, peer, nil},
			"peer_gone_legacy":       {MessagePeerGone, peer, nil},
			"health_problem":         {MessageHealth, key.NodePublic{}, []byte("duplicate connection for this key")},
			"health_ok":              {MessageHealth, key.NodePublic{}, nil},
			"server_info":            {Kind: MessageLoggedIn},
			"restarting":             {MessageRestarting, key.NodePublic{}, []byte("\x00\x00\x05\xdc\x00\x00\x13\x88")},
		}
		for name, m := range want {
			for _, ignored := range []string{"keep_alive", "server_key", "pong", "unknown_frame"} {
				p.Write(f.Find(t, ignored))
			}
			p.Write(f.Find(t, name))
			msgs, err := c.Recv()
			if err != nil || len(msgs) != 1 || msgs[0].Kind != m.Kind || msgs[0].Peer != m.Peer ||
				!bytes.Equal(msgs[0].Data, m.Data) {
				t.Errorf("%s: got %+v, %v, want %+v", name, msgs, err, m)
			}
		}
		go DrainMessages(c)
		p.Write(f.Find(t, "ping_long"))
		if got := p.WantFrame(derp.FramePong); !bytes.Equal(got, f.Find(t, "pong")[derp.HeaderSize:]) {
			t.Errorf("Pong %x", got)
		}
	})
}

// The client sends the bytes of the vectors.
func TestClientSendsVectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := relaytest.LoadVectors(t)
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		for _, name := range []string{"send_packet", "send_packet_empty", "send_packet_disco"} {
			want := f.Find(t, name)
			if err := c.Send(f.Public(t, "peer"), [][]byte{want[derp.SendOverhead:]}); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(p.Reader, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: sent %x, %v", name, got, err)
			}
		}
		c.noteHome(derp.IsHome)
		p.WantFrame(derp.FrameNotePreferred)
	})
}

// One Recv returns all packets of one read, and one Send is one write.
func TestClientBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		var b []byte
		for i := range 10 {
			frame := derp.AppendSendPacket(nil, s.Key.Public(), []byte{byte(i)})
			frame[0] = byte(derp.FrameRecvPacket)
			b = append(b, frame...)
		}
		p.Write(b)
		synctest.Wait()
		total, calls := 0, 0
		for total < 10 {
			msgs, err := c.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range msgs {
				if m.Data[0] != byte(total+i) {
					t.Errorf("packet %d is %d", total+i, m.Data[0])
				}
			}
			total += len(msgs)
			calls++
		}
		if calls > 2 { // without TLS the first header comes alone
			t.Errorf("10 packets took %d calls", calls)
		}

		packets := make([][]byte, 100)
		for i := range packets {
			packets[i] = bytes.Repeat([]byte{byte(i)}, 1000)
		}
		if err := c.Send(p.Public(), packets); err != nil {
			t.Fatal(err)
		}
		for i := range packets {
			if got := p.WantFrame(derp.FrameSendPacket); !bytes.Equal(got[key.Size:], packets[i]) {
				t.Fatalf("packet %d changed", i)
			}
		}
	})
}

// A packet larger than MaxPacket is an error; the packets beside it are sent.
func TestClientRefusesLargePackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		err := c.Send(p.Public(), [][]byte{[]byte("a"), make([]byte, derp.MaxPacket+1), []byte("b"),
			make([]byte, derp.MaxPacket)})
		if !errors.Is(err, derp.ErrPacketTooBig) {
			t.Errorf("got %v", err)
		}
		for _, want := range []int{1, 1, derp.MaxPacket} {
			if got := p.WantFrame(derp.FrameSendPacket); len(got) != key.Size+want {
				t.Errorf("packet of %d bytes, want %d", len(got)-key.Size, want)
			}
		}
	})
}

// A frame of up to 1 MiB does not fail the connection (3.1), even if the client has no use for it.
func TestClientSkipsLargeFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		go func() {
			for _, typ := range []derp.FrameType{0x7f, derp.FrameRecvPacket, derp.FrameHealth} {
				p.Conn.Write(append(derp.AppendHeader(nil, typ, derp.MaxFrameToClient),
					make([]byte, derp.MaxFrameToClient)...))
			}
			frame := derp.AppendSendPacket(nil, s.Key.Public(), []byte("after"))
			frame[0] = byte(derp.FrameRecvPacket)
			p.Conn.Write(frame)
		}()
		msgs, err := c.Recv()
		if err != nil || len(msgs) != 1 || string(msgs[0].Data) != "after" {
			t.Errorf("got %d messages, %v", len(msgs), err)
		}
	})
}

// "no frame received for 120 s: connection fails" (8.6). Any frame counts.
func TestClientSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		errc := make(chan error, 1)
		go func() {
			_, err := c.Recv()
			errc <- err
		}()
		time.Sleep(119 * time.Second)
		p.Write(derp.AppendKeepAlive(nil))
		start := time.Now()
		err := <-errc
		if d := time.Since(start); d < watchdog || d > watchdog+watchdogStep ||
			!errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("failed after %v with %v", d, err)
		}
		if _, again := c.Recv(); again != err {
			t.Errorf("later Recv: %v, want %v again", again, err)
		}
		p.WantClosed()
	})
}

// Close ends every blocked call and may be repeated. Later calls return net.ErrClosed.
func TestClientClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		s.Net.Limit = 10_000
		c, p := clientOf(s, ClientConfig{})
		ended := make(chan string, 3)
		go func() {
			_, err := c.Recv()
			ended <- "Recv: " + errText(err)
		}()
		go func() {
			_, err := c.Ping(context.Background())
			ended <- "Ping: " + errText(err)
		}()
		go func() {
			for {
				if err := c.Send(p.Public(), [][]byte{make([]byte, 10_000)}); err != nil {
					ended <- "Send: " + errText(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		time.Sleep(time.Second)
		start := time.Now()
		c.Close()
		for range 3 {
			if got := <-ended; !strings.HasSuffix(got, "closed") {
				t.Errorf("%s, want net.ErrClosed", got)
			}
		}
		if d := time.Since(start); d > clientPatience {
			t.Errorf("closing took %v", d)
		}
		c.Close()
		if err := c.Send(p.Public(), [][]byte{{1}}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
		if _, err := c.Recv(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Recv after Close: %v", err)
		}
		if _, err := c.Ping(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Ping after Close: %v", err)
		}
	})
}

func errText(err error) string {
	if errors.Is(err, net.ErrClosed) {
		return "closed"
	}
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// A server that takes no bytes for 10 s fails the connection. Send does not block for long
// meanwhile.
func TestClientStuckServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		s.Net.Limit = 10_000
		c, p := clientOf(s, ClientConfig{})
		errc := make(chan error, 1)
		go func() {
			_, err := c.Recv()
			errc <- err
		}()
		start := time.Now()
		slowest := time.Duration(0)
		for range 1000 {
			before := time.Now()
			c.Send(p.Public(), [][]byte{make([]byte, 1400)})
			slowest = max(slowest, time.Since(before))
		}
		if slowest > clientPatience || time.Since(start) > 2*clientPatience {
			t.Errorf("slowest Send %v, all %v", slowest, time.Since(start))
		}
		err := <-errc
		if d := time.Since(start); d != clientWriteTimeout || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("failed after %v with %v", d, err)
		}
		if n := c.out.counters.drops.Load(); n < 700 {
			t.Errorf("%d drops counted", n)
		}
	})
}

func TestClientPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		c, p := clientOf(s, ClientConfig{})
		go DrainMessages(c)
		go func() {
			data := p.WantFrame(derp.FramePing)
			time.Sleep(70 * time.Millisecond)
			p.Write(derp.AppendPong(nil, derp.PingData{1})) // "hands unknown Pongs up where they are ignored"
			p.Write(derp.AppendPong(nil, derp.PingData(data)))
			p.WantFrame(derp.FramePing) // and no answer to the second
		}()
		if d, err := c.Ping(t.Context()); err != nil || d != 70*time.Millisecond {
			t.Errorf("got %v, %v", d, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if len(c.pings) != 0 {
			t.Errorf("%d pings remembered", len(c.pings))
		}
		c.Close()
	})
}

// "before each SendPacket take 5 + 32 + packet length tokens; if not enough, drop silently" (2.5).
func TestClientTokenBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rawpeer.StartServer(t)
		k := key.NewNodePrivate()
		c, p := clientOf(s, ClientConfig{Key: k})
		p.Admit(k.Public(), derp.ServerInfo{Version: 2, TokenBucketBytesPerSecond: 1000, TokenBucketBytesBurst: 2000})
		WantKind(t, c, MessageLoggedIn)
		packet := make([]byte, 1000-derp.SendOverhead)
		for range 5 {
			if err := c.Send(p.Public(), [][]byte{packet}); err != nil {
				t.Error(err)
			}
		}
		c.noteHome(derp.IsHome) // other frames are not charged
		p.WantFrame(derp.FrameSendPacket)
		p.WantFrame(derp.FrameSendPacket)
		p.WantFrame(derp.FrameNotePreferred)
		if n := c.out.counters.drops.Load(); n != 3 {
			t.Errorf("%d drops counted, want 3", n)
		}
		time.Sleep(time.Second)
		c.Send(p.Public(), [][]byte{packet, packet})
		p.WantFrame(derp.FrameSendPacket)
		p.WantIdle()
		p.Admit(k.Public(), derp.ServerInfo{Version: 2}) // re-applied each time
		WantKind(t, c, MessageLoggedIn)
		c.Send(p.Public(), [][]byte{packet, packet, packet})
		for range 3 {
			p.WantFrame(derp.FrameSendPacket)
		}
	})
}

// Whatever the server does wrong in the login fails the Dial, with an error that says what.
// The context ends a Dial at any point, and has no power over the client that results.
// An HTTP answer to a fast start is told from a broken stream (1.7).
