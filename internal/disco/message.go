package disco

import (
	"net/netip"

	"ginnel/internal/key"
)

// TxID ties a Pong to its Ping. Twelve random bytes are the proof that a ping arrived.
type TxID [12]byte

// Ping asks the receiver to answer from where it arrived.
//
//	txid    12
//	nodekey 32  missing in clients older than 1.16
//	padding p   zero bytes, to probe the path MTU
type Ping struct {
	TxID    TxID
	NodeKey key.NodePublic // a claim, not a proof; zero if missing
	Padding int            // bytes
}

func (*Ping) kind() Kind { return KindPing }

func (m *Ping) appendBody(b []byte) []byte {
	b = append(b, m.TxID[:]...)
	// Padding that is long enough would be read as a node key, so a missing one is then written as
	// zero.
	if !m.NodeKey.IsZero() || m.Padding >= key.Size {
		b = append(b, m.NodeKey[:]...)
	}
	return append(b, make([]byte, m.Padding)...)
}

// parsePing accepts longer bodies on purpose: what follows the node key is padding. With fewer than
// 32 bytes after the TxID there is no node key and all of them are padding.
func parsePing(b []byte) (*Ping, error) {
	if len(b) < len(TxID{}) {
		return nil, errShort
	}
	m := &Ping{TxID: TxID(b)}
	b = b[len(m.TxID):]
	if len(b) >= key.Size {
		m.NodeKey = key.NodePublic(b[:key.Size])
		b = b[key.Size:]
	}
	m.Padding = len(b)
	return m, nil
}

// Pong answers a Ping.
//
//	txid 12
//	src  18  where the ping came from as the answering side saw it; 127.3.3.40:region if through a relay
type Pong struct {
	TxID TxID
	Src  netip.AddrPort // for display; path choice does not depend on it
}

func (*Pong) kind() Kind { return KindPong }

func (m *Pong) appendBody(b []byte) []byte {
	return appendAddrPort(append(b, m.TxID[:]...), m.Src)
}

func parsePong(b []byte) (*Pong, error) {
	if len(b) < len(TxID{})+addrPortLen {
		return nil, errShort
	}
	m := &Pong{TxID: TxID(b)}
	m.Src = parseAddrPort(b[len(m.TxID):])
	return m, nil
}

// CallMeMaybe tells a peer, through a relay, which addresses to ping now. The body is the addresses
// and nothing else.
type CallMeMaybe struct {
	Endpoints []netip.AddrPort // may hold addresses the receiver must not use, such as IPv6 link-local ones
}

func (*CallMeMaybe) kind() Kind { return KindCallMeMaybe }

func (m *CallMeMaybe) appendBody(b []byte) []byte { return appendAddrPorts(b, m.Endpoints) }

// parseCallMeMaybe never fails: a version or a length that is not understood reads as an empty list
// (section 1.2).
func parseCallMeMaybe(version byte, b []byte) *CallMeMaybe {
	if version != 0 || len(b)%addrPortLen != 0 {
		return &CallMeMaybe{}
	}
	return &CallMeMaybe{Endpoints: parseAddrPorts(b)}
}
