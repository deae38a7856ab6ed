package disco

import (
	"net/netip"

	"ginnel/key"
)

// TxID identifies a Ping. It is random, so that only a peer that has received the Ping can send the
// Pong.
type TxID [12]byte

// Ping asks the receiver to send a Pong to the source of the Ping.
//
//	txid    12
//	nodekey 32  missing in clients older than 1.16
//	padding p   zero bytes, to probe the path MTU
type Ping struct {
	TxID    TxID
	NodeKey key.NodePublic // claimed, not proven; zero if missing
	Padding int            // bytes
}

func (*Ping) kind() kind { return kindPing }

func (m *Ping) appendBody(b []byte) []byte {
	b = append(b, m.TxID[:]...)
	// The receiver would take 32 bytes of padding for a node key. Therefore a missing key is written
	// as zeros if there is that much padding.
	if !m.NodeKey.IsZero() || m.Padding >= key.Size {
		b = append(b, m.NodeKey[:]...)
	}
	return append(b, make([]byte, m.Padding)...)
}

// parsePing takes the bytes after the node key for padding. If fewer than 32 bytes follow the TxID,
// there is no node key, and all of them are padding.
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
//	src  18  the source of the Ping, as its receiver saw it; 127.3.3.40:region if it came by a relay
type Pong struct {
	TxID TxID
	Src  netip.AddrPort // for display only
}

func (*Pong) kind() kind { return kindPong }

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

// CallMeMaybe asks a peer, through a relay, to ping the sender's addresses now. The body is the
// list of addresses.
type CallMeMaybe struct {
	Endpoints []netip.AddrPort // may hold addresses that the receiver must not use, such as IPv6 link-local ones
}

func (*CallMeMaybe) kind() kind { return kindCallMeMaybe }

func (m *CallMeMaybe) appendBody(b []byte) []byte { return appendAddrPorts(b, m.Endpoints) }

// parseCallMeMaybe returns an empty list for an unknown version, and for a length that is not a
// multiple of 18 (section 1.2).
func parseCallMeMaybe(version byte, b []byte) *CallMeMaybe {
	if version != 0 || len(b)%addrPortLen != 0 {
		return &CallMeMaybe{}
	}
	return &CallMeMaybe{Endpoints: parseAddrPorts(b)}
}

// PeerRelay is a message about peer relays, which are nodes that forward UDP between two others.
// Its body is not parsed, because a node may ignore these messages (section 1.4).
type PeerRelay struct{ k kind }

func (m *PeerRelay) kind() kind { return m.k }

// appendBody appends nothing: we never send these messages.
func (*PeerRelay) appendBody(b []byte) []byte { return b }
