package transport

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"ginnel/internal/disco"
	"ginnel/key"
)

// This file passes disco and STUN messages from the receivers to the loop. Messages of strangers
// are dropped in the receiver's goroutine, so they cannot fill the loop's queue. A peer has a share
// of the queue, so it cannot fill it for others.

const (
	// loopQueue is how many messages may wait for the loop. When it is full, packets are dropped and
	// counted, and calls wait.
	loopQueue = 256
	// keyQueue is how many of them may come from one disco key.
	keyQueue = loopQueue / 4
)

// expected lists what receivers pass to the loop. The loop maintains it.
type expected struct {
	keys sync.Map // key.DiscoPublic to *discoKey
	stun sync.Map // stunTxID to nil: requests without an answer so far
}

// discoKey is a disco key that one or more peers have.
type discoKey struct {
	public key.DiscoPublic
	once   sync.Once
	shared *key.Shared
	queued atomic.Int32 // messages that wait for the loop
}

// sharedKey returns the key of the boxes that we exchange with this disco key, nil if the key is a
// point of low order.
func (s *discoKey) sharedKey(own key.DiscoPrivate) *key.Shared {
	s.once.Do(func() { s.shared, _ = own.Shared(s.public) })
	return s.shared
}

// expect has receivers pass messages of a disco key.
func (x *expected) expect(k key.DiscoPublic) *discoKey {
	s, _ := x.keys.LoadOrStore(k, &discoKey{public: k})
	return s.(*discoKey)
}

// key returns the entry of a disco key, nil if receivers drop its messages.
func (x *expected) key(k key.DiscoPublic) *discoKey {
	s, _ := x.keys.Load(k)
	known, _ := s.(*discoKey)
	return known
}

// discoPacket is an authentic disco message. It came from a UDP address, or through a relay if src
// is invalid.
type discoPacket struct {
	by     *discoKey
	m      disco.Message
	src    netip.AddrPort
	region int            // of the relay
	from   key.NodePublic // as the relay says
}

func (d *discoPacket) direct() bool { return d.src.IsValid() }

// tellDisco passes a disco packet to the loop. It does not keep b.
func (c *Conn) tellDisco(b []byte, src netip.AddrPort) { c.tellOpened(b, discoPacket{src: src}) }

func (c *Conn) tellRelayedDisco(b []byte, region int, from key.NodePublic) {
	c.tellOpened(b, discoPacket{region: region, from: from})
}

// tellOpened opens a packet and passes it to the loop. It drops packets of strangers, forgeries,
// and packets beyond the share of their key.
func (c *Conn) tellOpened(b []byte, d discoPacket) {
	if d.by = c.expected.key(disco.Sender(b)); d.by == nil {
		c.counters.discoUnknown.Add(1)
		return
	}
	shared := d.by.sharedKey(c.disco)
	if shared == nil {
		c.counters.discoBad.Add(1)
		return
	}
	var err error
	if d.m, err = disco.Open(shared, b); err != nil {
		c.counters.discoBad.Add(1)
		return
	}
	if d.by.queued.Add(1) > keyQueue {
		d.by.queued.Add(-1)
		c.counters.loopFull.Add(1)
		return
	}
	if !c.tell(d) {
		d.by.queued.Add(-1)
	}
}

// stunPacket is the answer to one of our requests.
type stunPacket struct {
	txid   stunTxID
	mapped netip.AddrPort
}

// tellSTUN passes the first answer to each of our requests to the loop and drops all other STUN
// messages.
func (c *Conn) tellSTUN(b []byte) {
	if _, asked := c.expected.stun.LoadAndDelete(stunTxID(b[8:20])); !asked {
		c.counters.stunUnasked.Add(1)
		return
	}
	if txid, mapped, ok := parseBindingResponse(b); ok {
		c.tell(stunPacket{txid, mapped})
	}
}
