package node

import (
	"context"
	"errors"
	"sync"

	"ginnel/control"
	"ginnel/key"
)

// Logout ends the node's registration: the server forgets an ephemeral node, and any other has to
// log in again. The caller has to close the node, which does not join again.
func (n *Node) Logout(ctx context.Context) error {
	m := n.member
	if m == nil {
		return nil
	}
	m.talk.stop() // otherwise it would register the node again
	if m.cfg.Ephemeral && !m.mayBeKnown() {
		return nil
	}
	err := m.client.Logout(ctx, control.RegisterRequest{NodeKey: n.key().Public()})
	if err == nil || errors.Is(err, control.ErrUnknownNode) {
		m.markUnknown()
		return nil
	}
	return err
}

// GiveUp is Logout for a node that does not run: it ends the registration of cfg.Control.Identity.
func GiveUp(ctx context.Context, cfg Config) error {
	client, err := (&hostDialer{cfg: &cfg}).controlClient(cfg.Control, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	keys := []key.NodePrivate{cfg.Control.Identity.Node}
	if next := cfg.Control.Identity.Next; !next.IsZero() { // the server may have accepted it while the node was down
		keys = append(keys, next)
	}
	for _, k := range keys {
		err := client.Logout(ctx, control.RegisterRequest{NodeKey: k.Public()})
		if err != nil && !errors.Is(err, control.ErrUnknownNode) {
			return err
		}
	}
	return nil
}

// conversation runs the goroutines of a membership. It can be begun again after a stop.
type conversation struct {
	mu     sync.Mutex         // held during stop, too, so that begin waits for it
	cancel context.CancelFunc // ends the goroutines that wg counts; nil if there are none
	wg     sync.WaitGroup
}

// begin starts each part in a goroutine, which lasts until stop or until parent ends.
func (c *conversation) begin(parent context.Context, parts ...func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		return // it has begun already
	}
	ctx, cancel := context.WithCancel(parent)
	c.cancel = cancel
	for _, part := range parts {
		c.wg.Go(func() { part(ctx) })
	}
}

// stop ends the goroutines and waits for them. It may be called again.
func (c *conversation) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
	c.wg.Wait()
}

// begin starts the conversation with the server, unless the node is closed.
func (m *membership) begin() {
	if m.n.life.begin() {
		defer m.n.life.done()
		m.talk.begin(m.n.life.ctx, m.run, m.report)
	}
}

// resume continues after a Logout that has failed.
func (n *Node) resume() { n.member.begin() }

// ask sends a registration request. The server may know the node from then on, even if there is no
// answer.
func (m *membership) ask(ctx context.Context, req control.RegisterRequest) (*control.RegisterResponse, error) {
	m.markKnown()
	resp, err := m.client.Register(ctx, req)
	_, refused := errors.AsType[*control.RefusedError](err)
	if refused || err == nil && resp.AuthURL != "" {
		m.markUnknown()
	}
	return resp, err
}

// markKnown notes that the server may have a registration of this node.
func (m *membership) markKnown() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = true
}

// markUnknown notes that the server has no registration of this node.
func (m *membership) markUnknown() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = false
}

func (m *membership) mayBeKnown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known
}
