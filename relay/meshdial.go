package relay

import (
	"context"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// Outbox is the queue of what is to be written to a connection. Package relay/server makes it.
type Outbox = derp.Outbox

// MeshDialer connects a relay to another relay of its mesh (5.2), for package relay/server.
type MeshDialer struct {
	cfg    ClientConfig
	target *target
}

// NewMeshDialer returns a dialer for the relay at an https or http URL. The mesh key of cfg is the
// one that both relays have.
func NewMeshDialer(rawURL string, cfg ClientConfig) (*MeshDialer, error) {
	t, err := urlTarget(rawURL)
	if err != nil {
		return nil, err
	}
	return &MeshDialer{cfg, t}, nil
}

// Host returns the host of the other relay, and its port unless that is the usual one.
func (d *MeshDialer) Host() string { return d.target.hostHeader() }

// Dial connects, logs in and asks for the presence of all clients. It gives up after 10 s.
func (d *MeshDialer) Dial(ctx context.Context) (*MeshConn, error) {
	h := newLoginOptions(&d.cfg)
	h.info.CanAckPings, h.watch = false, true
	s, err := connect(ctx, &d.cfg, []*target{d.target}, h, TransportNative)
	if err != nil {
		return nil, err
	}
	return &MeshConn{s}, nil
}

// MeshConn is a connection to another relay of the mesh, after the login.
type MeshConn struct{ session *session }

// ServerKey returns the key of the other relay.
func (c *MeshConn) ServerKey() key.NodePublic { return c.session.server }

// Serve lets out write to the connection and calls handle with each message until the connection
// ends. The error says why it ended. A write fails if the other relay takes no bytes for timeout.
// Afterwards the caller must detach out.
func (c *MeshConn) Serve(out *Outbox, timeout time.Duration, handle func(Message)) error {
	c.session.conn.Timeout = timeout
	client := &Client{out: &sender{box: out}, session: c.session}
	client.start()
	for {
		msgs, err := client.recv()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			handle(m)
		}
	}
}

// HangUp ends the connection. Serve then returns err.
func (c *MeshConn) HangUp(err error) { c.session.conn.HangUp(err) }
