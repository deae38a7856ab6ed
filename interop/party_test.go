package interop

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
	"time"

	"ginnel/key"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// patience is how long a test waits for what must come. Nothing takes so long unless it is broken.
const patience = 15 * time.Second

// eventKind is what can happen to a client of a relay.
type eventKind string

const (
	packetEvent     eventKind = "packet"
	goneEvent       eventKind = "peer gone"
	presentEvent    eventKind = "peer present"
	restartingEvent eventKind = "server restarting"
	endEvent        eventKind = "end of the connection"
)

// event is what happened; data is text for events that are not packets.
type event struct {
	kind eventKind
	peer key.NodePublic
	data []byte
	err  error
}

// derpClient is a client of either make.
type derpClient interface {
	send(to key.NodePublic, packet []byte) error
	receive() ([]event, error)
	ping(ctx context.Context) error
	serverKey() key.NodePublic
	close()
}

// maker connects a client of one make.
type maker struct {
	name    string
	connect func(ctx context.Context, tb testing.TB, h *relayHost, c carriage, k key.NodePrivate) (derpClient, error)
}

// clients are the clients of both makes.
var clients = []maker{{"our client", connectOurs}, {"their client", connectTheirs}}

var ours, theirs = clients[0], clients[1]

// party is a connected client with its events in a queue.
type party struct {
	derpClient
	tb     testing.TB
	name   string
	public key.NodePublic
	events chan event
	donec  chan struct{}
}

// join connects a client with a new key until the test ends.
func (m maker) join(tb testing.TB, h *relayHost, c carriage) *party {
	tb.Helper()
	return m.joinAs(tb, h, c, key.NewNodePrivate())
}

func (m maker) joinAs(tb testing.TB, h *relayHost, c carriage, k key.NodePrivate) *party {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	d, err := m.connect(ctx, tb, h, c, k)
	if err != nil {
		tb.Fatalf("%s over %s to %s: %v", m.name, c, h.name, err)
	}
	if got := d.serverKey(); got != h.public {
		tb.Errorf("%s over %s to %s: server key %v, want %v", m.name, c, h.name, got, h.public)
	}
	p := newParty(tb, m.name, d, k.Public())
	p.wantPong() // a fast start is over before the relay knows of the client
	return p
}

func newParty(tb testing.TB, name string, d derpClient, public key.NodePublic) *party {
	p := &party{derpClient: d, tb: tb, name: name, public: public, events: make(chan event, 1<<14), donec: make(chan struct{})}
	go p.read()
	tb.Cleanup(p.leave)
	return p
}

// read queues events until the connection ends. A full queue is the test's mistake and ends it too.
func (p *party) read() {
	defer close(p.donec)
	for {
		events, err := p.receive()
		if err != nil {
			events = []event{{kind: endEvent, err: err}}
		}
		for _, e := range events {
			select {
			case p.events <- e:
			default:
				p.close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// leave hangs up.
func (p *party) leave() {
	p.close()
	<-p.donec
}

// say sends one packet.
func (p *party) say(to key.NodePublic, packet []byte) {
	p.tb.Helper()
	if err := p.send(to, packet); err != nil {
		p.tb.Fatalf("%s: sending %d bytes: %v", p.name, len(packet), err)
	}
}

// await waits for any event; it reports false if none comes.
func (p *party) await() (event, bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case e := <-p.events:
		return e, true
	case <-timer.C:
		return event{}, false
	}
}

// next waits for an event of one of the kinds and drops others.
func (p *party) next(kinds ...eventKind) event {
	p.tb.Helper()
	for {
		e, ok := p.await()
		if !ok {
			p.tb.Fatalf("%s: no %v", p.name, kinds)
		}
		if slices.Contains(kinds, e.kind) {
			return e
		}
		if e.kind == endEvent {
			p.tb.Fatalf("%s: connection ended while waiting for %v: %v", p.name, kinds, e.err)
		}
	}
}

// wantPacket demands that the next packet is this one.
func (p *party) wantPacket(from key.NodePublic, want []byte) {
	p.tb.Helper()
	e := p.next(packetEvent)
	if e.peer != from || !bytes.Equal(e.data, want) {
		p.tb.Fatalf("%s: got %s from %v, want %s from %v", p.name, brief(e.data), e.peer, brief(want), from)
	}
}

// wantGone demands that the next news of a peer's leaving is about this one.
func (p *party) wantGone(peer key.NodePublic, reason string) {
	p.tb.Helper()
	e := p.next(goneEvent)
	if e.peer != peer {
		p.tb.Fatalf("%s: told that %v is gone, want %v", p.name, e.peer, peer)
	}
	if e.data != nil && string(e.data) != reason {
		p.tb.Fatalf("%s: told the reason %q, want %q", p.name, e.data, reason)
	}
}

// untilFence sends p a packet from itself, which comes behind all packets that went the same way
// before, and returns what comes until then.
func (p *party) untilFence() (events []event) {
	p.tb.Helper()
	fence := "fence " + rand8()
	p.say(p.public, []byte(fence))
	for {
		e, ok := p.await()
		if !ok || e.kind == endEvent {
			p.tb.Fatalf("%s: a packet to itself does not come back: %v", p.name, e.err)
		}
		if e.kind == packetEvent && string(e.data) == fence {
			return events
		}
		events = append(events, e)
	}
}

// wantPong demands that the relay answers a ping.
func (p *party) wantPong() {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.tb.Context(), patience)
	defer cancel()
	if err := p.ping(ctx); err != nil {
		p.tb.Errorf("%s: ping: %v", p.name, err)
	}
}

// brief describes a packet for an error message.
func brief(b []byte) string {
	if len(b) <= 40 {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q... (%d bytes)", b[:40], len(b))
}
