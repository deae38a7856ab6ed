package relay_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/server"
)

// The client's WebSocket carries a byte stream in both directions.
func TestWebSocketClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rawpeer.StartRelay(t, newServer(t, server.Config{}), derp.MeshKey{})
		k := key.NewNodePrivate()
		cfg := relay.ClientConfig{Key: k, DialContext: r.Net.DialContext}
		c, err := relay.DialWebSocket(t.Context(), rawpeer.URL, cfg)
		if err != nil {
			t.Fatal(err)
		}
		relay.WantKind(t, c, relay.MessageLoggedIn)
		if c.Transport() != relay.TransportWebSocket || c.RemoteAddr().String() != "203.0.113.1:443" {
			t.Errorf("transport %v to %v", c.Transport(), c.RemoteAddr())
		}
		peer := r.Client()
		for _, size := range []int{0, 1400, derp.MaxPacket} {
			packet := strings.Repeat("p", size)
			c.Send(peer.Public(), [][]byte{[]byte(packet)})
			peer.WantPacket(k.Public(), packet)
			peer.Send(k.Public(), packet)
			if m := relay.WantKind(t, c, relay.MessagePacket); string(m.Data) != packet {
				t.Errorf("packet of %d bytes changed", size)
			}
		}
		go func() {
			time.Sleep(10 * time.Second)
			c.Close()
		}()
		if _, err := c.Recv(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Recv after Close: %v", err)
		}
		peer.WantGone(k.Public(), derp.GoneDisconnected)
	})
}
