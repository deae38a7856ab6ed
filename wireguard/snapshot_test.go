package wireguard

import (
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/replay"
	"golang.zx2c4.com/wireguard/tai64n"
)

// snapshot is the state that a message of a peer can change, except for cookies, which cannot be
// read. Two snapshots are equal if nothing changed in between.
type snapshot struct {
	endpoint      conn.Endpoint
	rx, tx        uint64
	handshakeTime int64
	indices       int

	newHandshakeAt, sendKeepaliveAt, lastMessage int64

	initiation                               *initiation
	lastSentHandshake, retransmitHandshakeAt int64
	attempts                                 int
	lastInitiationConsumption, lastKeypair   int64
	lastTimestamp                            tai64n.Timestamp

	current, previous, next keypairSnapshot
}

type keypairSnapshot struct {
	keypair     *keypair
	state       keypairState
	sendCounter uint64
	replay      replay.Filter
}

func snapshotOfKeypair(k *keypair) keypairSnapshot {
	if k == nil {
		return keypairSnapshot{}
	}
	return keypairSnapshot{k, k.state.Load(), k.sendCounter.Load(), k.replay}
}

// snapshotOf returns the state of a peer of h, which must be idle.
func snapshotOf(tb testing.TB, h *host, other *host) snapshot {
	tb.Helper()
	p, ok := h.peer(other.key.Public())
	if !ok {
		tb.Fatal("no such peer")
	}
	return snapshot{
		endpoint: *p.endpoint.Load(), rx: p.rx.Load(), tx: p.tx.Load(), handshakeTime: p.handshakeTime.Load(),
		indices:        len(h.indices.all()),
		newHandshakeAt: p.newHandshakeAt.Load(), sendKeepaliveAt: p.sendKeepaliveAt.Load(),
		lastMessage: p.lastMessage.Load(),
		initiation:  p.initiation, lastSentHandshake: p.lastSentHandshake, retransmitHandshakeAt: p.retransmitHandshakeAt,
		attempts: p.attempts, lastInitiationConsumption: p.lastInitiationConsumption, lastKeypair: p.lastKeypair,
		lastTimestamp: p.lastTimestamp,
		current:       snapshotOfKeypair(p.current.Load()), previous: snapshotOfKeypair(p.previous),
		next: snapshotOfKeypair(p.next),
	}
}
