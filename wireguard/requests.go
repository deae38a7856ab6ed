package wireguard

import (
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// maxQueuedMessages limits the handshake messages that wait for runHandshakes to one whole burst of
// the rate limit. Further ones are dropped, and their senders retransmit.
const maxQueuedMessages = totalBurst

// maxQueuedCookies limits the messages that wait to be answered with a cookie reply, because making
// a reply takes longer than receiving a message. They have a queue of their own, so that a flood of
// them does not displace admitted messages. Each sender has one place, so that a flood from one
// address and port does not displace the others.
const maxQueuedCookies = 256

// requests is the queue of everything that other goroutines want of runHandshakes.
type requests struct {
	wakec chan struct{} // capacity 1: wakes runHandshakes

	mu       sync.Mutex
	messages []handshakeMessage
	cookies  map[string]handshakeMessage // to be answered with a cookie reply; by DstToBytes of the sender
	peers    []*peer                     // with flags in peer.requested
}

// handshakeMessage is a received handshake message or cookie reply.
type handshakeMessage struct {
	b    []byte
	from conn.Endpoint
}

func (q *requests) init() { q.wakec = make(chan struct{}, 1) }

// queueMessage queues a copy of an admitted message. It reports false if the queue is full.
func (q *requests) queueMessage(b []byte, from conn.Endpoint) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) >= maxQueuedMessages {
		return false
	}
	q.messages = append(q.messages, handshakeMessage{slices.Clone(b), from})
	q.wake()
	return true
}

// queueCookie queues a copy of a message that is to be answered with a cookie reply. It reports
// false if the queue is full or already holds a message of the sender.
func (q *requests) queueCookie(b []byte, from conn.Endpoint) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	sender := from.DstToBytes()
	if _, queued := q.cookies[string(sender)]; queued || len(q.cookies) >= maxQueuedCookies {
		return false
	}
	if q.cookies == nil {
		q.cookies = make(map[string]handshakeMessage)
	}
	q.cookies[string(sender)] = handshakeMessage{slices.Clone(b), from}
	q.wake()
	return true
}

// takeCookies empties the queue of messages that are to be answered with a cookie reply.
func (q *requests) takeCookies() map[string]handshakeMessage {
	q.mu.Lock()
	defer q.mu.Unlock()
	cookies := q.cookies
	q.cookies = nil
	return cookies
}

func (q *requests) wake() {
	select {
	case q.wakec <- struct{}{}:
	default:
	}
}

// take empties the queues of admitted messages and of peers.
func (q *requests) take() ([]handshakeMessage, []*peer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	messages, peers := q.messages, q.peers
	q.messages, q.peers = nil, nil
	return messages, peers
}

// Flags of a request about a peer.
const (
	reqCheckTimers = 1 << iota
	reqHandshake   // start a handshake if the peer needs one
	reqSendStaged  // send the staged packets
	reqReset       // cancel our initiation and the wait for Rekey-Timeout
	reqConfirmed   // the peer uses the keypair of its initiation: cancel ours
)

// request asks runHandshakes to act on p. It does not block. A peer is queued at most once: further
// flags are added to its pending request.
func (d *Device) request(p *peer, flags uint32) {
	if p.requested.Or(flags) != 0 {
		return
	}
	d.requests.mu.Lock()
	d.requests.peers = append(d.requests.peers, p)
	d.requests.mu.Unlock()
	d.requests.wake()
}
