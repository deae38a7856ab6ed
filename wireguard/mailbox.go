package wireguard

import (
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// maxMail handshake messages wait for loop: a whole burst. More are dropped; their senders try
// again.
const maxMail = loadBurst

// maxChallenged messages wait to be answered with a cookie, which takes longer than to receive
// them. They have a place of their own, so a flood of them does not displace what was admitted, and
// each sender has one, so a flood from one address and port does not displace the others.
const maxChallenged = 256

// mailbox is what loop is asked for and told.
type mailbox struct {
	wakec chan struct{} // capacity 1

	mu         sync.Mutex
	messages   []handshakeMessage
	challenged map[string]handshakeMessage // by DstToBytes of the sender
	asked      []*peer
}

type handshakeMessage struct {
	b  []byte
	ep conn.Endpoint
}

func (m *mailbox) init() { m.wakec = make(chan struct{}, 1) }

// put copies a message of a handshake. It reports false if there is no room.
func (m *mailbox) put(b []byte, ep conn.Endpoint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.messages) >= maxMail {
		return false
	}
	m.messages = append(m.messages, handshakeMessage{slices.Clone(b), ep})
	m.wake()
	return true
}

// putChallenged copies a message that is to be answered with a cookie. It reports false if there is
// no room, or the sender has one that waits.
func (m *mailbox) putChallenged(b []byte, ep conn.Endpoint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	sender := ep.DstToBytes()
	if _, waits := m.challenged[string(sender)]; waits || len(m.challenged) >= maxChallenged {
		return false
	}
	if m.challenged == nil {
		m.challenged = make(map[string]handshakeMessage)
	}
	m.challenged[string(sender)] = handshakeMessage{slices.Clone(b), ep}
	m.wake()
	return true
}

// takeChallenged returns those.
func (m *mailbox) takeChallenged() map[string]handshakeMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	challenged := m.challenged
	m.challenged = nil
	return challenged
}

func (m *mailbox) wake() {
	select {
	case m.wakec <- struct{}{}:
	default:
	}
}

// take returns all that is there.
func (m *mailbox) take() ([]handshakeMessage, []*peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	messages, asked := m.messages, m.asked
	m.messages, m.asked = nil, nil
	return messages, asked
}

// What loop may be asked to do about a peer.
const (
	askLook      = 1 << iota // see what is due
	askHandshake             // make a session, unless one has just been tried for
	askFlush                 // send what is staged
	askReset                 // forget what was tried
	askConfirmed             // the peer uses the session that we answered: forget what was tried
)

// ask tells loop what p needs. It never waits; a peer is in the mailbox once.
func (d *Device) ask(p *peer, what uint32) {
	if p.asks.Or(what) != 0 {
		return
	}
	d.mail.mu.Lock()
	d.mail.asked = append(d.mail.asked, p)
	d.mail.mu.Unlock()
	d.mail.wake()
}
