package relay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
	"ginnel/relay/server"
)

// Connections that send garbage, half a handshake or nothing do not disturb working ones.
func TestHostileConnections(t *testing.T) {
	srv := startServer(t, server.Config{})
	k := key.NewNodePrivate()
	a := relay.DialTest(t, srv.region, relay.ClientConfig{})
	b := relay.DialTest(t, srv.region, relay.ClientConfig{Key: k})
	relay.WantKind(t, a, relay.MessageLoggedIn)
	relay.WantKind(t, b, relay.MessageLoggedIn)
	var bad []net.Conn
	garbage := make([]byte, 2000)
	for i := range 600 {
		conn, err := net.Dial("tcp", srv.addr)
		if err != nil {
			t.Fatal(err)
		}
		bad = append(bad, conn)
		switch i % 4 {
		case 0: // nothing
		case 1:
			rand.Read(garbage)
			conn.Write(garbage)
		case 2: // the beginning of a ClientHello
			conn.Write([]byte{0x16, 3, 1, 2, 0, 1, 0})
		case 3:
			io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	start := time.Now()
	for i := range 100 {
		a.Send(k.Public(), [][]byte{[]byte(fmt.Sprint(i))})
		if m := relay.WantKind(t, b, relay.MessagePacket); string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", m.Data, i)
		}
	}
	late := relay.DialTest(t, srv.region, relay.ClientConfig{})
	relay.WantKind(t, late, relay.MessageLoggedIn)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("100 packets and a login took %v", d)
	}
	for _, conn := range bad {
		conn.Close()
	}
}

// Clients and relay over sockets and TLS, with several senders for each receiver, clients that come
// and go, and one that never reads. Packets arrive whole and in order, and Close ends everything.
func TestLoopbackUnderLoad(t *testing.T) {
	srv := startServer(t, server.Config{WriteTimeout: time.Hour})
	stuckKey := key.NewNodePrivate()
	relay.DialTest(t, srv.region, relay.ClientConfig{Key: stuckKey}) // never receives
	const receivers, senders, batches = 2, 3, 60
	var peers []key.NodePublic
	var receiving, sending sync.WaitGroup
	var through atomic.Int64 // receivers that have heard the end of all senders
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range receivers {
		k := key.NewNodePrivate()
		peers = append(peers, k.Public())
		c := relay.DialTest(t, srv.region, relay.ClientConfig{Key: k})
		relay.WantKind(t, c, relay.MessageLoggedIn)
		receiving.Go(func() {
			checkStream(t, c, senders)
			through.Add(1)
			relay.DrainMessages(c)
		})
	}
	for range senders {
		c := relay.DialTest(t, srv.region, relay.ClientConfig{})
		relay.WantKind(t, c, relay.MessageLoggedIn)
		go relay.DrainMessages(c)
		sending.Go(func() {
			junk := make([]byte, 1200)
			for n := range batches {
				for _, to := range peers {
					c.Send(to, numbered(n))
				}
				c.Send(stuckKey.Public(), [][]byte{junk, junk, junk})
				if n%20 == 0 { // somebody connects, and leaves without a word
					other, err := relay.DialRegion(ctx, srv.region, relay.ClientConfig{Key: key.NewNodePrivate()})
					if err != nil {
						t.Error(err)
						return
					}
					other.Send(peers[0], [][]byte{{0xff}})
					other.Close()
				}
			}
			for through.Load() < receivers && !t.Failed() { // the end, again and again: packets may be lost
				for _, to := range peers {
					c.Send(to, [][]byte{{0xee}})
				}
				if _, err := c.Ping(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	sending.Wait()
	srv.Close()
	receiving.Wait()
}

// numbered returns a batch of packets that carry the number of their batch and their own.
func numbered(batch int) (packets [][]byte) {
	for i := range 10 {
		packets = append(packets, bytes.Repeat([]byte{byte(batch), byte(i)}, 300+i))
	}
	return packets
}

// checkStream receives until all senders have sent their last packet.
func checkStream(t *testing.T, c *relay.Client, senders int) {
	type at struct{ batch, n int }
	last := make(map[key.NodePublic]at)
	ended := make(map[key.NodePublic]bool)
	for len(ended) < senders {
		msgs, err := c.Recv()
		if err != nil {
			t.Errorf("receiving: %v", err)
			return
		}
		for _, m := range msgs {
			switch {
			case m.Kind != relay.MessagePacket || len(m.Data) == 1 && m.Data[0] == 0xff:
			case len(m.Data) == 1 && m.Data[0] == 0xee:
				ended[m.Peer] = true
			default:
				now := at{int(m.Data[0]), int(m.Data[1])}
				if !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(now.batch), byte(now.n)}, 300+now.n)) {
					t.Errorf("packet %v changed", now)
				}
				if before, ok := last[m.Peer]; ok && (now.batch < before.batch || now.batch == before.batch &&
					now.n <= before.n) {
					t.Errorf("packet %v after %v", now, before)
				}
				last[m.Peer] = now
			}
		}
	}
}

// A WebSocket over sockets carries the largest packets, and ends with the status for a normal
// closure.
func TestLoopbackWebSocket(t *testing.T) {
	srv := startServer(t, server.Config{})
	k := key.NewNodePrivate()
	cfg := relay.ClientConfig{Key: k}
	c, err := relay.DialRegionWebSocket(t.Context(), srv.region, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	relay.WantKind(t, c, relay.MessageLoggedIn)
	other := relay.DialTest(t, srv.region, relay.ClientConfig{})
	relay.WantKind(t, other, relay.MessageLoggedIn)
	large := bytes.Repeat([]byte{7}, derp.MaxPacket)
	for range 5 {
		other.Send(k.Public(), [][]byte{large})
		if m := relay.WantKind(t, c, relay.MessagePacket); !bytes.Equal(m.Data, large) {
			t.Fatal("packet changed")
		}
	}
	// A frame that is not allowed: the server ends the WebSocket, normally.
	c.SendControl(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
	if _, err := c.Recv(); err != io.EOF {
		t.Errorf("end of the WebSocket: %v, want io.EOF for a normal closure", err)
	}
}
