package transport

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"ginnel/internal/disco"
	"ginnel/internal/key"
)

// This file is the way of disco and STUN from the receivers to the loop. What nobody vouches for
// ends here, where it has arrived, so that strangers cannot fill the queue of the loop; and no peer
// can fill it for others.

const (
	// loopQueue messages may wait for the loop. Beyond that, packets for it are dropped and
	// counted; calls wait.
	loopQueue = 256
	// senderQueue of them may be of one disco key.
	senderQueue = loopQueue / 4
)

// expected is what the loop tells the receivers to let through.
type expected struct {
	senders sync.Map // key.DiscoPublic to *sender
	stun    sync.Map // stunTxID, nil: requests that have not been answered
}

// sender is a disco key of a peer, or of several.
type sender struct {
	public key.DiscoPublic
	once   sync.Once
	shared *key.Shared
	queued atomic.Int32 // messages that wait for the loop
}

// sharedKey returns the key of the boxes with the sender, nil if its key is none.
func (s *sender) sharedKey(own key.DiscoPrivate) *key.Shared {
	s.once.Do(func() { s.shared, _ = own.Shared(s.public) })
	return s.shared
}

// expect lets a disco key through, and returns its sender.
func (x *expected) expect(k key.DiscoPublic) *sender {
	s, _ := x.senders.LoadOrStore(k, &sender{public: k})
	return s.(*sender)
}

// sender returns that of a disco key that is let through, or nil.
func (x *expected) sender(k key.DiscoPublic) *sender {
	s, _ := x.senders.Load(k)
	known, _ := s.(*sender)
	return known
}

// discoPacket is an authentic disco message, from a UDP address or, with an invalid one, from a
// peer through a relay.
type discoPacket struct {
	by     *sender
	m      disco.Message
	src    netip.AddrPort
	region int
	from   key.NodePublic
}

func (d *discoPacket) direct() bool { return d.src.IsValid() }

// tellDisco passes a disco packet to the loop. The packet is not kept.
func (c *Conn) tellDisco(b []byte, src netip.AddrPort) { c.tellOpened(b, discoPacket{src: src}) }

func (c *Conn) tellRelayedDisco(b []byte, region int, from key.NodePublic) {
	c.tellOpened(b, discoPacket{region: region, from: from})
}

// tellOpened opens a packet and passes it to the loop, unless it is a stranger's, a forgery, or one
// of too many.
func (c *Conn) tellOpened(b []byte, d discoPacket) {
	if d.by = c.expected.sender(disco.Sender(b)); d.by == nil {
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
	if d.by.queued.Add(1) > senderQueue {
		d.by.queued.Add(-1)
		c.counters.loopFull.Add(1)
		return
	}
	if !c.tell(d) {
		d.by.queued.Add(-1)
	}
}

// stunPacket is an answer to a request of ours.
type stunPacket struct {
	txid   stunTxID
	mapped netip.AddrPort
}

// tellSTUN passes an answer to the loop, once. Everything else is nobody's business here, or a
// stranger's guess.
func (c *Conn) tellSTUN(b []byte) {
	if _, asked := c.expected.stun.LoadAndDelete(stunTxID(b[8:20])); !asked {
		c.counters.stunUnasked.Add(1)
		return
	}
	if txid, mapped, ok := parseBindingResponse(b); ok {
		c.tell(stunPacket{txid, mapped})
	}
}
