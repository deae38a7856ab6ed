package node

import (
	"context"
	"errors"

	"ginnel/control"
	"ginnel/key"
)

// Giving up the registration with a coordination server.

// Logout ends the node's registration: the server forgets it if it is ephemeral, and otherwise asks
// for a new login. The node does not join again; what is left for it is Close.
func (n *Node) Logout(ctx context.Context) error {
	m := n.member
	if m == nil {
		return nil
	}
	m.stop() // it would take the end of its registration for an accident
	if m.cfg.Ephemeral && !m.mayBeKnown() {
		return nil
	}
	err := m.client.Logout(ctx, control.RegisterRequest{NodeKey: n.key().Public()})
	if err == nil || errors.Is(err, control.ErrUnknownNode) {
		m.setKnown(false)
		return nil
	}
	return err
}

// GiveUp is Logout for a node that does not run: it ends the registration that cfg.Control.Identity
// stands for.
func GiveUp(ctx context.Context, cfg Config) error {
	n := &Node{cfg: cfg, log: cfg.log()}
	client, err := n.newControlClient()
	if err != nil {
		return err
	}
	defer client.Close()
	keys := []key.NodePrivate{cfg.Control.Identity.Node}
	if next := cfg.Control.Identity.Next; !next.IsZero() { // which may have been accepted while the node was down
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

// begin starts the conversation with the server, which lasts until stop.
func (m *membership) begin() {
	m.lifeMu.Lock()
	defer m.lifeMu.Unlock()
	if m.cancel != nil {
		return // it goes on
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.run(ctx) })
	m.wg.Go(func() { m.report(ctx) })
}

// stop ends the conversation and waits for its end. It may be called again.
func (m *membership) stop() {
	m.lifeMu.Lock()
	defer m.lifeMu.Unlock()
	if m.cancel != nil {
		m.cancel()
		m.cancel = nil
	}
	m.wg.Wait()
}

// resume goes on after a Logout that did not reach the server.
func (n *Node) resume() {
	n.lifeMu.Lock()
	defer n.lifeMu.Unlock()
	if !n.isClosed() {
		n.member.begin()
	}
}

// ask sends a registration. From then on the server may know the node, whatever becomes of the
// answer.
func (m *membership) ask(ctx context.Context, req control.RegisterRequest) (*control.RegisterResponse, error) {
	m.setKnown(true)
	resp, err := m.client.Register(ctx, req)
	_, refused := errors.AsType[*control.RefusedError](err)
	if refused || err == nil && resp.AuthURL != "" {
		m.setKnown(false)
	}
	return resp, err
}

func (m *membership) setKnown(known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = known
}

func (m *membership) mayBeKnown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known
}
