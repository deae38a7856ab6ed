package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// errKeyExpired is why a node has to be let in again.
var errKeyExpired = errors.New("the node's key has expired")

func expired(m *control.NetMap, now time.Time) bool {
	return m.Self.Expired || !m.Self.KeyExpiry.IsZero() && !now.Add(m.ClockSkew).Before(m.Self.KeyExpiry)
}

// renew waits until the node may go on after its key has expired: the server accepts a new key, or
// an administrator makes the present one valid again. The present key is in use until the server
// has accepted the new one.
func (m *membership) renew(ctx context.Context) error {
	m.leavePeers(errKeyExpired.Error())
	m.markExpired()
	if err := m.prepareNextKey(); err != nil {
		return err
	}
	asking, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	validc := make(chan struct{})
	wg.Go(func() {
		if m.awaitValid(asking) {
			close(validc)
			cancel()
		}
	})
	err := m.logIn(asking)
	switch {
	case err == nil:
		return m.adoptNextKey()
	case isClosed(validc):
		return nil
	}
	return err
}

// keyIsValid ends what has begun when the present key expired: the server's map says that it is
// valid, so the server has not accepted the next one.
func (m *membership) keyIsValid() {
	if id := &m.cfg.Identity; !id.Next.IsZero() {
		id.Next = key.NodePrivate{}
		if err := m.cfg.save(); err != nil {
			m.n.log.Warn("a key that is not needed stays in the identity", "err", err)
		}
	}
	if !m.hasExpired() {
		return
	}
	m.n.log.Info("the node's key is valid again")
	m.endExpiry()
	m.n.plane.pool.SetKey(m.n.key()) // which connects at once to relays that have refused the expired key
}

func (m *membership) endExpiry() {
	m.noKey = false
	m.clearLogin()
	m.markValid()
}

// logIn asks the server to accept the next key, and waits for a person if the server wants one.
func (m *membership) logIn(ctx context.Context) error {
	req := m.registration(m.cfg.Identity.Next)
	req.OldNodeKey = m.n.key().Public()
	for {
		resp, err := m.client.Register(ctx, req)
		switch {
		case err != nil:
			return err
		case resp.NodeKeyExpired:
			return &control.RefusedError{Reason: "the new key of the node has expired too"}
		case resp.AuthURL == "":
			return nil
		}
		m.follow(ctx, &req, resp.AuthURL)
	}
}

// awaitValid follows the map of the present key, and reports true as soon as the key is valid
// again. It reports false when ctx ends.
func (m *membership) awaitValid(ctx context.Context) bool {
	var wait control.Backoff
	for ctx.Err() == nil {
		for nm, err := range m.client.Poll(ctx, m.request()) {
			if err != nil {
				break
			}
			wait.Reset()
			if !expired(nm, time.Now()) {
				return true
			}
		}
		m.pause(ctx, wait.Next(rand.Float64()))
	}
	return false
}

// prepareNextKey makes the key that will replace the present one, unless an earlier run has. It is
// kept before the server learns of it: a login that succeeds while the node is down is not lost.
func (m *membership) prepareNextKey() error {
	if !m.cfg.Identity.Next.IsZero() {
		return nil
	}
	m.cfg.Identity.Next = key.NewNodePrivate()
	return m.cfg.save()
}

// adoptNextKey replaces the present key with the next one, which the server has accepted.
func (m *membership) adoptNextKey() error {
	id := &m.cfg.Identity
	k := id.Next
	id.Node, id.Next = k, key.NodePrivate{}
	if err := m.cfg.save(); err != nil {
		id.Node, id.Next = m.n.key(), k // for another attempt
		return err
	}
	m.n.setKey(k)
	m.endExpiry()
	m.n.log.Info("the node's key had expired and is replaced")
	return nil
}

func (m *membership) clearLogin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.login = ""
}

func (m *membership) markExpired() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expired = true
}

func (m *membership) markValid() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expired = false
}

func (m *membership) hasExpired() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expired
}
