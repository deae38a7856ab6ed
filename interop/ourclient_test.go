package interop

import (
	"bytes"
	"context"
	"testing"

	"ginnel/key"
	"ginnel/relay"
)

// ourClient is a Ginnel client.
type ourClient struct{ *relay.Client }

// connectOurs connects our client by the map, or by URL to a front without TLS, which a map cannot
// describe. Our client asks for a WebSocket only if the native upgrade is refused, and the
// WebSocket front refuses it.
func connectOurs(ctx context.Context, tb testing.TB, h *relayHost, c upgradeMode, k key.NodePrivate) (
	derpClient, error,
) {
	cfg := relay.ClientConfig{Key: k, Log: testLog(tb, "our client")}
	return dialOurs(ctx, h, c, cfg)
}

func dialOurs(ctx context.Context, h *relayHost, c upgradeMode, cfg relay.ClientConfig) (derpClient, error) {
	var client *relay.Client
	var err error
	if c == plainHTTP {
		client, err = relay.Dial(ctx, h.fronts[c].url(), cfg)
	} else {
		client, err = relay.DialRegion(ctx, h.derpMap(c).Regions[1], cfg)
	}
	if err != nil {
		return nil, err
	}
	return ourClient{client}, nil
}

func (c ourClient) send(to key.NodePublic, packet []byte) error {
	return c.Send(to, [][]byte{packet})
}

func (c ourClient) receive() (events []event, err error) {
	msgs, err := c.Recv()
	for _, m := range msgs {
		switch m.Kind {
		case relay.MessagePacket:
			events = append(events, event{kind: packetEvent, peer: m.Peer, data: bytes.Clone(m.Data)})
		case relay.MessagePeerGone:
			events = append(events, event{kind: goneEvent, peer: m.Peer})
		}
	}
	return events, err
}

func (c ourClient) ping(ctx context.Context) error {
	_, err := c.Ping(ctx)
	return err
}

func (c ourClient) serverKey() key.NodePublic { return c.ServerKey() }
func (c ourClient) close()                    { c.Close() }
