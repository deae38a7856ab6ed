package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/net/wsconn"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest"

	"ginnel/key"
)

func rand8() string {
	var b [4]byte
	rand.Read(b[:])
	return hexOf(b[:])
}

// theirClient is their HTTP client for DERP, which tailscaled uses.
type theirClient struct{ *derphttp.Client }

func connectTheirs(ctx context.Context, tb testing.TB, h *relayHost, c upgradeMode, k key.NodePrivate) (derpClient,
	error) {
	if c == webSocket {
		return connectTheirWebSocket(ctx, tb, h, k)
	}
	client, err := newTheirClient(tb, h, c, k)
	if err != nil {
		return nil, err
	}
	if err := client.Connect(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// newTheirClient returns a client that is not connected yet.
func newTheirClient(tb testing.TB, h *relayHost, c upgradeMode, k key.NodePrivate) (theirClient, error) {
	logf := tstest.WhileTestRunningLogger(tb)
	if c == plainHTTP {
		client, err := derphttp.NewClient(theirPrivate(k), h.fronts[c].url(), logf, netmon.NewStatic())
		return theirClient{client}, err
	}
	region := theirMap(tb, h.derpMap(c)).Regions[1]
	get := func() *tailcfg.DERPRegion { return region }
	return theirClient{derphttp.NewRegionClient(theirPrivate(k), logf, netmon.NewStatic(), get)}, nil
}

func (c theirClient) send(to key.NodePublic, packet []byte) error {
	return c.Send(theirPublic(to), packet)
}

func (c theirClient) receive() ([]event, error) {
	m, err := c.Recv()
	if err != nil {
		return nil, err
	}
	return theirEvents(m), nil
}

func (c theirClient) ping(ctx context.Context) error { return c.Ping(ctx) }
func (c theirClient) serverKey() key.NodePublic      { return ourPublic(c.ServerPublicKey()) }
func (c theirClient) close()                         { c.Close() }

func theirEvents(m derp.ReceivedMessage) []event {
	switch m := m.(type) {
	case derp.ReceivedPacket:
		return []event{{kind: packetEvent, peer: ourPublic(m.Source), data: bytes.Clone(m.Data)}}
	case derp.PeerGoneMessage:
		return []event{{kind: goneEvent, peer: ourPublic(m.Peer), data: []byte(goneReason(m.Reason))}}
	case derp.PeerPresentMessage:
		return []event{{kind: presentEvent, peer: ourPublic(m.Key), data: fmt.Appendf(nil, "%v %b", m.IPPort, m.Flags)}}
	case derp.ServerRestartingMessage:
		return []event{{kind: restartingEvent, data: fmt.Appendf(nil, "%v", m.TryFor)}}
	}
	return nil
}

const (
	reasonDisconnected = "disconnected"
	reasonNotHere      = "not here"
)

func goneReason(r derp.PeerGoneReasonType) string {
	switch r {
	case derp.PeerGoneReasonDisconnected:
		return reasonDisconnected
	case derp.PeerGoneReasonNotHere:
		return reasonNotHere
	}
	return fmt.Sprintf("reason %#x", byte(r))
}

// theirWebSocketClient is their DERP client over a WebSocket, assembled as their HTTP client does
// it in browsers.
type theirWebSocketClient struct {
	*derp.Client
	conn net.Conn

	mu    sync.Mutex
	pongs map[derp.PongMessage]chan struct{}
}

func connectTheirWebSocket(ctx context.Context, tb testing.TB, h *relayHost, k key.NodePrivate) (derpClient, error) {
	url := h.fronts[webSocket].url()
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		Subprotocols: []string{"derp"},
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots},
			DisableKeepAlives: true}},
	})
	if err != nil {
		return nil, err
	}
	conn := wsconn.NetConn(context.Background(), ws, websocket.MessageBinary, url)
	brw := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	client, err := derp.NewClient(theirPrivate(k), conn, brw, tstest.WhileTestRunningLogger(tb), derp.CanAckPings(true))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &theirWebSocketClient{Client: client, conn: conn, pongs: make(map[derp.PongMessage]chan struct{})}, nil
}

func (c *theirWebSocketClient) send(to key.NodePublic, packet []byte) error {
	return c.Send(theirPublic(to), packet)
}

func (c *theirWebSocketClient) receive() ([]event, error) {
	m, err := c.Recv()
	if err != nil {
		return nil, err
	}
	if pong, ok := m.(derp.PongMessage); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		if donec := c.pongs[pong]; donec != nil {
			close(donec)
			delete(c.pongs, pong)
		}
	}
	return theirEvents(m), nil
}

var errNoPong = errors.New("no pong")

func (c *theirWebSocketClient) ping(ctx context.Context) error {
	var data derp.PongMessage
	rand.Read(data[:])
	donec := make(chan struct{})
	c.mu.Lock()
	c.pongs[data] = donec
	c.mu.Unlock()
	if err := c.SendPing(data); err != nil {
		return err
	}
	select {
	case <-donec:
		return nil
	case <-ctx.Done():
		return errNoPong
	}
}

func (c *theirWebSocketClient) serverKey() key.NodePublic { return ourPublic(c.ServerPublicKey()) }
func (c *theirWebSocketClient) close()                    { c.conn.Close() }
