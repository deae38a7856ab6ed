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

// waitLimit is how long a test waits for an event that must come. Nothing takes that long unless it
// is broken.
const waitLimit = 15 * time.Second

// eventKind is the kind of an event of a relay client.
type eventKind string

const (
	packetEvent     eventKind = "packet"
	goneEvent       eventKind = "peer gone"
	presentEvent    eventKind = "peer present"
	restartingEvent eventKind = "server restarting"
	endEvent        eventKind = "end of the connection"
)

// event is an event of a relay client. For events other than packets, data is a text.
type event struct {
	kind eventKind
	peer key.NodePublic
	data []byte
	err  error
}

// derpClient is a relay client of either make.
type derpClient interface {
	send(to key.NodePublic, packet []byte) error
	receive() ([]event, error)
	ping(ctx context.Context) error
	serverKey() key.NodePublic
	close()
}

// clientKind connects relay clients of one make.
type clientKind struct {
	name    string
	connect func(ctx context.Context, tb testing.TB, h *relayHost, c upgradeMode, k key.NodePrivate) (derpClient, error)
}

// clients are both kinds.
var clients = []clientKind{{"our client", connectOurs}, {"their client", connectTheirs}}

var ours, theirs = clients[0], clients[1]

// testClient is a connected relay client whose events are queued.
type testClient struct {
	derpClient
	tb     testing.TB
	name   string
	public key.NodePublic
	events chan event
	donec  chan struct{}
}

// join connects a client with a new key until the test ends.
func (m clientKind) join(tb testing.TB, h *relayHost, c upgradeMode) *testClient {
	tb.Helper()
	return m.joinAs(tb, h, c, key.NewNodePrivate())
}

func (m clientKind) joinAs(tb testing.TB, h *relayHost, c upgradeMode, k key.NodePrivate) *testClient {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), waitLimit)
	defer cancel()
	d, err := m.connect(ctx, tb, h, c, k)
	if err != nil {
		tb.Fatalf("%s over %s to %s: %v", m.name, c, h.name, err)
	}
	if got := d.serverKey(); got != h.public {
		tb.Errorf("%s over %s to %s: server key %v, want %v", m.name, c, h.name, got, h.public)
	}
	p := newTestClient(tb, m.name, d, k.Public())
	p.wantPong() // with a fast start the relay may not have registered the client yet
	return p
}

func newTestClient(tb testing.TB, name string, d derpClient, public key.NodePublic) *testClient {
	p := &testClient{derpClient: d, tb: tb, name: name, public: public, events: make(chan event, 1<<14),
		donec: make(chan struct{})}
	go p.read()
	tb.Cleanup(p.leave)
	return p
}

// read queues events until the connection ends. A full queue is a mistake of the test and closes
// the connection.
func (p *testClient) read() {
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

// leave closes the connection.
func (p *testClient) leave() {
	p.close()
	<-p.donec
}

// mustSend sends one packet.
func (p *testClient) mustSend(to key.NodePublic, packet []byte) {
	p.tb.Helper()
	if err := p.send(to, packet); err != nil {
		p.tb.Fatalf("%s: sending %d bytes: %v", p.name, len(packet), err)
	}
}

// await waits for the next event. It reports false if none arrives.
func (p *testClient) await() (event, bool) {
	timer := time.NewTimer(waitLimit)
	defer timer.Stop()
	select {
	case e := <-p.events:
		return e, true
	case <-timer.C:
		return event{}, false
	}
}

// next waits for an event of one of the kinds and drops others.
func (p *testClient) next(kinds ...eventKind) event {
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

// wantPacket checks that the next packet has this sender and content.
func (p *testClient) wantPacket(from key.NodePublic, want []byte) {
	p.tb.Helper()
	e := p.next(packetEvent)
	if e.peer != from || !bytes.Equal(e.data, want) {
		p.tb.Fatalf("%s: got %s from %v, want %s from %v", p.name, excerpt(e.data), e.peer, excerpt(want), from)
	}
}

// wantGone checks that the next PeerGone names this peer and reason.
func (p *testClient) wantGone(peer key.NodePublic, reason string) {
	p.tb.Helper()
	e := p.next(goneEvent)
	if e.peer != peer {
		p.tb.Fatalf("%s: PeerGone for %v, want %v", p.name, e.peer, peer)
	}
	if e.data != nil && string(e.data) != reason {
		p.tb.Fatalf("%s: PeerGone with reason %q, want %q", p.name, e.data, reason)
	}
}

// untilFence sends a packet from p to itself, and returns the events that arrive before it. The
// relay delivers it after all earlier packets of the same path.
func (p *testClient) untilFence() (events []event) {
	p.tb.Helper()
	fence := "fence " + rand8()
	p.mustSend(p.public, []byte(fence))
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

// wantPong checks that the relay answers a ping.
func (p *testClient) wantPong() {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.tb.Context(), waitLimit)
	defer cancel()
	if err := p.ping(ctx); err != nil {
		p.tb.Errorf("%s: ping: %v", p.name, err)
	}
}

// excerpt describes a packet in an error message.
func excerpt(b []byte) string {
	if len(b) <= 40 {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q... (%d bytes)", b[:40], len(b))
}
