package derp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"ginnel/key"
)

// This file encodes and decodes the frames of section 3. It has no state, locks or logs.
//
//	0  1  frame type
//	1  4  payload length N, big endian
//	5  N  payload

// FrameType is the first byte of a frame (3.1).
type FrameType byte

const (
	FrameServerKey     FrameType = 0x01 // S→C  8 magic, 32 server key, ignored rest
	FrameClientInfo    FrameType = 0x02 // C→S  32 client key, 24 nonce, box of JSON
	FrameServerInfo    FrameType = 0x03 // S→C  24 nonce, box of JSON
	FrameSendPacket    FrameType = 0x04 // C→S  32 destination, packet
	FrameRecvPacket    FrameType = 0x05 // S→C  32 source, packet
	FrameKeepAlive     FrameType = 0x06 // S→C  empty
	FrameNotePreferred FrameType = 0x07 // C→S  1: 0x00 not the home, else the home
	FramePeerGone      FrameType = 0x08 // S→C  32 peer, 1 reason
	FramePeerPresent   FrameType = 0x09 // S→M  32 peer, 16 address, 2 port, 1 flags
	FrameForwardPacket FrameType = 0x0a // M→S  32 source, 32 destination, packet
	FrameWatchConns    FrameType = 0x10 // M→S  empty
	FrameClosePeer     FrameType = 0x11 // M→S  32 peer
	FramePing          FrameType = 0x12 // both 8 data
	FramePong          FrameType = 0x13 // both 8 data
	FrameHealth        FrameType = 0x14 // S→C  text, empty = problem over
	FrameRestarting    FrameType = 0x15 // S→C  4 ms until reconnect, 4 ms to keep trying
)

const (
	ProtocolVersion = 2

	HeaderSize = 5
	// SendOverhead is what a SendPacket or RecvPacket frame adds to its packet.
	SendOverhead = HeaderSize + key.Size

	// MaxPacket is the size in bytes of the largest packet that DERP carries (3.1).
	MaxPacket = 64 << 10

	MaxFrameToClient  = 1 << 20   // a client fails a connection that announces more (3.1)
	MaxClientInfo     = 256 << 10 // payload (2.4)
	MaxServerKey      = 1024      // payload (2.2)
	MaxPing           = 1000      // payload, client to server (3.11)
	PingSize          = 8
	PongFrameSize     = HeaderSize + PingSize
	peerPresentSize   = key.Size + 16 + 2 + 1
	MaxForwardPayload = 2*key.Size + MaxPacket
)

// serverKeyMagic opens the first frame of a server: "DERP" and a key emoji (2.2).
const serverKeyMagic = "DERP\U0001F511"

// DiscoMagic begins a disco message, by which nodes find direct paths. Relays carry disco too.
const DiscoMagic = "TS\U0001F4AC"

// DiscoMinSize is the size of magic, sender key and nonce: the shortest disco message (section 0).
const DiscoMinSize = len(DiscoMagic) + key.Size + key.NonceSize

// LooksLikeDisco reports whether the relay treats packet as a disco message (section 0).
func LooksLikeDisco(packet []byte) bool {
	return len(packet) >= DiscoMinSize && string(packet[:len(DiscoMagic)]) == DiscoMagic
}

var (
	ErrServerGreeting = errors.New("greeting is not that of a DERP server")
	ErrPacketTooBig   = fmt.Errorf("relay: packet is larger than %d bytes", MaxPacket)
)

// FrameError reports a frame that the protocol does not allow. Whoever receives one closes the
// connection.
type FrameError struct {
	Type   FrameType
	Length uint32
	Reason string
}

// Error implements error.
func (e *FrameError) Error() string {
	return fmt.Sprintf("frame of type %#02x with %d bytes: %s", byte(e.Type), e.Length, e.Reason)
}

func AppendHeader(b []byte, t FrameType, n int) []byte {
	b = append(b, byte(t))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// ParseHeader reads the header at the front of b. ok is false if b is shorter than a header.
func ParseHeader(b []byte) (t FrameType, n uint32, ok bool) {
	if len(b) < HeaderSize {
		return 0, 0, false
	}
	return FrameType(b[0]), binary.BigEndian.Uint32(b[1:]), true
}

// FrameSize returns the size of the first frame in frames, header included. frames must hold whole
// frames.
func FrameSize(frames []byte) int {
	return HeaderSize + int(binary.BigEndian.Uint32(frames[1:]))
}

func AppendServerKey(b []byte, k key.NodePublic) []byte {
	b = AppendHeader(b, FrameServerKey, len(serverKeyMagic)+key.Size)
	b = append(b, serverKeyMagic...)
	return append(b, k[:]...)
}

// ParseServerKey reads the payload of a ServerKey frame (2.2). It ignores trailing bytes, which
// later versions may use.
func ParseServerKey(p []byte) (key.NodePublic, error) {
	rest, ok := bytes.CutPrefix(p, []byte(serverKeyMagic))
	if !ok || len(rest) < key.Size || len(p) > MaxServerKey {
		return key.NodePublic{}, ErrServerGreeting
	}
	return key.NodePublic(rest[:key.Size]), nil
}

func AppendSendPacket(b []byte, to key.NodePublic, packet []byte) []byte {
	b = AppendHeader(b, FrameSendPacket, key.Size+len(packet))
	b = append(b, to[:]...)
	return append(b, packet...)
}

func AppendForwardPacket(b []byte, from, to key.NodePublic, packet []byte) []byte {
	b = AppendHeader(b, FrameForwardPacket, 2*key.Size+len(packet))
	b = append(b, from[:]...)
	b = append(b, to[:]...)
	return append(b, packet...)
}

func AppendNotePreferred(b []byte, home HomeNote) []byte {
	return append(AppendHeader(b, FrameNotePreferred, 1), byte(home))
}

// HomeNote is the payload of a NotePreferred frame: whether the relay is the client's home (3.5).
type HomeNote byte

const (
	NotHome HomeNote = 0
	IsHome  HomeNote = 1
)

// AppendKeepAlive appends the frame by which a server shows that it is there (3.4).
func AppendKeepAlive(b []byte) []byte { return AppendHeader(b, FrameKeepAlive, 0) }

// GoneReason tells why a peer is gone (3.6).
type GoneReason byte

const (
	GoneDisconnected GoneReason = 0x00
	GoneNotHere      GoneReason = 0x01
)

func AppendPeerGone(b []byte, peer key.NodePublic, reason GoneReason) []byte {
	b = AppendHeader(b, FramePeerGone, key.Size+1)
	b = append(b, peer[:]...)
	return append(b, byte(reason))
}

// ParsePeerGone reads the payload of a PeerGone frame. Old servers leave the reason out.
func ParsePeerGone(p []byte) (peer key.NodePublic, reason GoneReason, ok bool) {
	if len(p) < key.Size {
		return peer, 0, false
	}
	if len(p) > key.Size {
		reason = GoneReason(p[key.Size])
	}
	return key.NodePublic(p[:key.Size]), reason, true
}

// PresentFlags are the bits of a PeerPresent frame (3.7).
type PresentFlags byte

const (
	PresentRegular  PresentFlags = 1 << iota // set exactly if no other flag is
	PresentMesh                              // connected with the mesh key
	PresentProber                            // a monitoring client
	PresentNotIdeal                          // the client wanted another node of the region, which did not answer
)

// Presence is the content of a PeerPresent frame.
type Presence struct {
	Peer  key.NodePublic
	Addr  netip.AddrPort // zero if unknown
	Flags PresentFlags   // 0 from old servers
}

func AppendPeerPresent(b []byte, p Presence) []byte {
	b = AppendHeader(b, FramePeerPresent, peerPresentSize)
	b = append(b, p.Peer[:]...)
	if p.Addr.IsValid() {
		ip := p.Addr.Addr().As16()
		b = append(b, ip[:]...)
		b = binary.BigEndian.AppendUint16(b, p.Addr.Port())
	} else {
		b = append(b, make([]byte, 16+2)...)
	}
	return append(b, byte(p.Flags))
}

// ParsePeerPresent reads the payload of a PeerPresent frame. Old servers leave out the flags, or
// everything except the key.
func ParsePeerPresent(b []byte) (p Presence, ok bool) {
	const addrEnd = key.Size + 16 + 2
	if len(b) < key.Size {
		return p, false
	}
	p.Peer = key.NodePublic(b[:key.Size])
	if len(b) >= addrEnd {
		ip := netip.AddrFrom16([16]byte(b[key.Size:])).Unmap()
		port := binary.BigEndian.Uint16(b[key.Size+16:])
		if !ip.IsUnspecified() || port != 0 {
			p.Addr = netip.AddrPortFrom(ip, port)
		}
	}
	if len(b) > addrEnd {
		p.Flags = PresentFlags(b[addrEnd])
	}
	return p, true
}

// PingData is the payload of a Ping, which its Pong repeats.
type PingData [PingSize]byte

func AppendPing(b []byte, d PingData) []byte {
	return append(AppendHeader(b, FramePing, PingSize), d[:]...)
}

func AppendPong(b []byte, d PingData) []byte {
	return append(AppendHeader(b, FramePong, PingSize), d[:]...)
}

// ParsePing reads the payload of a Ping or Pong. Only the first 8 bytes are repeated in a Pong.
func ParsePing(p []byte) (d PingData, ok bool) {
	if len(p) < PingSize {
		return d, false
	}
	return PingData(p[:PingSize]), true
}

// RestartAdvice is the content of a Restarting frame (3.13), in milliseconds.
type RestartAdvice struct {
	ReconnectIn uint32 // wait before reconnecting
	TryFor      uint32 // keep trying before failures count as usual
}

func AppendRestarting(b []byte, r RestartAdvice) []byte {
	b = AppendHeader(b, FrameRestarting, 8)
	b = binary.BigEndian.AppendUint32(b, r.ReconnectIn)
	return binary.BigEndian.AppendUint32(b, r.TryFor)
}

func ParseRestarting(p []byte) (r RestartAdvice, ok bool) {
	if len(p) < 8 {
		return r, false
	}
	return RestartAdvice{binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])}, true
}
