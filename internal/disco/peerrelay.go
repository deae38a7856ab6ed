package disco

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"ginnel/internal/key"
)

// The messages of peer relays: a third node that forwards UDP between two that cannot reach each
// other. A node may ignore them all (section 1.4); they are here so that whoever meets one knows
// what it is.

var errAddrs = errors.New("disco: relay endpoint without a whole number of addresses")

// Bind is one message of the three-way handshake with a peer relay.
//
//	vni        4
//	generation 4
//	remote     32
//	challenge  32
type Bind struct {
	Step       Kind // KindBind, KindBindChallenge or KindBindAnswer
	VNI        uint32
	Generation uint32
	Remote     key.DiscoPublic // the other participant
	Challenge  [32]byte        // zero in KindBind
}

const bindLen = 4 + 4 + key.Size + 32

func (m *Bind) kind() Kind { return m.Step }

func (m *Bind) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.VNI)
	b = binary.BigEndian.AppendUint32(b, m.Generation)
	b = append(b, m.Remote[:]...)
	return append(b, m.Challenge[:]...)
}

func parseBind(step Kind, b []byte) (*Bind, error) {
	if len(b) < bindLen {
		return nil, errShort
	}
	return &Bind{
		Step:       step,
		VNI:        binary.BigEndian.Uint32(b),
		Generation: binary.BigEndian.Uint32(b[4:]),
		Remote:     key.DiscoPublic(b[8:40]),
		Challenge:  [32]byte(b[40:72]),
	}, nil
}

// RelayEndpoint describes an allocation on a peer relay.
//
//	server    32
//	clients   2 × 32  in ascending byte order
//	lamport   8
//	vni       4
//	bind      8  nanoseconds
//	steady    8  nanoseconds
//	addresses 18·n, n ≥ 1
type RelayEndpoint struct {
	Server              key.DiscoPublic
	Clients             [2]key.DiscoPublic
	LamportID           uint64
	VNI                 uint32
	BindLifetime        time.Duration
	SteadyStateLifetime time.Duration
	Addrs               []netip.AddrPort
}

const relayEndpointLen = 3*key.Size + 8 + 4 + 8 + 8

func (e *RelayEndpoint) append(b []byte) []byte {
	b = append(b, e.Server[:]...)
	b = append(b, e.Clients[0][:]...)
	b = append(b, e.Clients[1][:]...)
	b = binary.BigEndian.AppendUint64(b, e.LamportID)
	b = binary.BigEndian.AppendUint32(b, e.VNI)
	b = binary.BigEndian.AppendUint64(b, uint64(e.BindLifetime))
	b = binary.BigEndian.AppendUint64(b, uint64(e.SteadyStateLifetime))
	return appendAddrPorts(b, e.Addrs)
}

func parseRelayEndpoint(b []byte) (e RelayEndpoint, err error) {
	if len(b) < relayEndpointLen+addrPortLen {
		return e, errShort
	}
	addrs := b[relayEndpointLen:]
	if len(addrs)%addrPortLen != 0 {
		return e, errAddrs
	}
	return RelayEndpoint{
		Server:              key.DiscoPublic(b[:32]),
		Clients:             [2]key.DiscoPublic{key.DiscoPublic(b[32:64]), key.DiscoPublic(b[64:96])},
		LamportID:           binary.BigEndian.Uint64(b[96:]),
		VNI:                 binary.BigEndian.Uint32(b[104:]),
		BindLifetime:        time.Duration(binary.BigEndian.Uint64(b[108:])),
		SteadyStateLifetime: time.Duration(binary.BigEndian.Uint64(b[116:])),
		Addrs:               parseAddrPorts(addrs),
	}, nil
}

// CallMeMaybeVia is CallMeMaybe for a path through a peer relay. Its body is a RelayEndpoint.
type CallMeMaybeVia struct{ RelayEndpoint }

func (*CallMeMaybeVia) kind() Kind { return KindCallMeMaybeVia }

func (m *CallMeMaybeVia) appendBody(b []byte) []byte { return m.append(b) }

// parseCallMeMaybeVia reads a version it does not know as an all-zero message (section 1.2).
func parseCallMeMaybeVia(version byte, b []byte) (*CallMeMaybeVia, error) {
	if version != 0 {
		return &CallMeMaybeVia{}, nil
	}
	e, err := parseRelayEndpoint(b)
	if err != nil {
		return nil, err
	}
	return &CallMeMaybeVia{e}, nil
}

// AllocateRequest asks a peer relay for an endpoint.
//
//	clients    2 × 32  in ascending byte order
//	generation 4
type AllocateRequest struct {
	Clients    [2]key.DiscoPublic
	Generation uint32
}

func (*AllocateRequest) kind() Kind { return KindAllocateRequest }

func (m *AllocateRequest) appendBody(b []byte) []byte {
	b = append(b, m.Clients[0][:]...)
	b = append(b, m.Clients[1][:]...)
	return binary.BigEndian.AppendUint32(b, m.Generation)
}

func parseAllocateRequest(version byte, b []byte) (*AllocateRequest, error) {
	if version != 0 {
		return &AllocateRequest{}, nil
	}
	if len(b) < 2*key.Size+4 {
		return nil, errShort
	}
	return &AllocateRequest{
		Clients:    [2]key.DiscoPublic{key.DiscoPublic(b[:32]), key.DiscoPublic(b[32:64])},
		Generation: binary.BigEndian.Uint32(b[64:]),
	}, nil
}

// AllocateResponse answers an AllocateRequest: its generation (4 bytes), then a RelayEndpoint.
type AllocateResponse struct {
	Generation uint32
	RelayEndpoint
}

func (*AllocateResponse) kind() Kind { return KindAllocateResponse }

func (m *AllocateResponse) appendBody(b []byte) []byte {
	return m.append(binary.BigEndian.AppendUint32(b, m.Generation))
}

func parseAllocateResponse(version byte, b []byte) (*AllocateResponse, error) {
	if version != 0 {
		return &AllocateResponse{}, nil
	}
	if len(b) < 4 {
		return nil, errShort
	}
	e, err := parseRelayEndpoint(b[4:])
	if err != nil {
		return nil, err
	}
	return &AllocateResponse{binary.BigEndian.Uint32(b), e}, nil
}
