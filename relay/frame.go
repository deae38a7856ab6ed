package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"ginnel/internal/key"
)

// This file is the codec: every frame of section 3, without state, locks or logs.
//
//	0  1  frame type
//	1  4  payload length N, big endian
//	5  N  payload

// frameType is the first byte of a frame (3.1).
type frameType byte

const (
	frameServerKey     frameType = 0x01 // S→C  8 magic, 32 server key, ignored rest
	frameClientInfo    frameType = 0x02 // C→S  32 client key, 24 nonce, box of JSON
	frameServerInfo    frameType = 0x03 // S→C  24 nonce, box of JSON
	frameSendPacket    frameType = 0x04 // C→S  32 destination, packet
	frameRecvPacket    frameType = 0x05 // S→C  32 source, packet
	frameKeepAlive     frameType = 0x06 // S→C  empty
	frameNotePreferred frameType = 0x07 // C→S  1: 0x00 not my home, else my home
	framePeerGone      frameType = 0x08 // S→C  32 peer, 1 reason
	framePeerPresent   frameType = 0x09 // S→M  32 peer, 16 address, 2 port, 1 flags
	frameForwardPacket frameType = 0x0a // M→S  32 source, 32 destination, packet
	frameWatchConns    frameType = 0x10 // M→S  empty
	frameClosePeer     frameType = 0x11 // M→S  32 peer
	framePing          frameType = 0x12 // both 8 data
	framePong          frameType = 0x13 // both 8 data
	frameHealth        frameType = 0x14 // S→C  text, empty = problem over
	frameRestarting    frameType = 0x15 // S→C  4 ms until reconnect, 4 ms to keep trying
)

const (
	protocolVersion = 2

	headerSize = 5
	// sendOverhead is what a SendPacket or RecvPacket frame adds to its packet.
	sendOverhead = headerSize + key.Size

	// MaxPacket is the size in bytes of the largest packet that DERP carries (3.1).
	MaxPacket = 64 << 10

	maxFrameToClient  = 1 << 20   // a client fails a connection that announces more (3.1)
	maxClientInfo     = 256 << 10 // payload (2.4)
	maxServerKey      = 1024      // payload (2.2)
	maxPing           = 1000      // payload, client to server (3.11)
	pingSize          = 8
	pongFrameSize     = headerSize + pingSize
	peerPresentSize   = key.Size + 16 + 2 + 1
	maxForwardPayload = 2*key.Size + MaxPacket
)

// serverKeyMagic opens the first frame of a server: "DERP" and a key emoji (2.2).
const serverKeyMagic = "DERP\U0001F511"

// discoMagic opens a disco message, the node to node path discovery that relays also carry.
const discoMagic = "TS\U0001F4AC"

// discoMinSize is magic, key, nonce: what looks like disco is at least this long (section 0).
const discoMinSize = len(discoMagic) + key.Size + key.NonceSize

// looksLikeDisco reports whether the server treats packet as a disco message (section 0).
func looksLikeDisco(packet []byte) bool {
	return len(packet) >= discoMinSize && string(packet[:len(discoMagic)]) == discoMagic
}

var (
	errServerGreeting = errors.New("greeting is not that of a DERP server")
	errPacketTooBig   = fmt.Errorf("relay: packet is larger than %d bytes", MaxPacket)
)

// frameError reports a frame that the protocol does not allow; the connection it came on is closed.
type frameError struct {
	typ    frameType
	length uint32
	reason string
}

// Error implements error.
func (e *frameError) Error() string {
	return fmt.Sprintf("frame of type %#02x with %d bytes: %s", byte(e.typ), e.length, e.reason)
}

func appendHeader(b []byte, t frameType, n int) []byte {
	b = append(b, byte(t))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// parseHeader reads the header at the front of b and reports whether there are enough bytes for
// one.
func parseHeader(b []byte) (t frameType, n uint32, ok bool) {
	if len(b) < headerSize {
		return 0, 0, false
	}
	return frameType(b[0]), binary.BigEndian.Uint32(b[1:]), true
}

// frameSize returns the size of the whole frame that frames begins with. Queues hold only whole
// frames.
func frameSize(frames []byte) int {
	return headerSize + int(binary.BigEndian.Uint32(frames[1:]))
}

func appendServerKey(b []byte, k key.NodePublic) []byte {
	b = appendHeader(b, frameServerKey, len(serverKeyMagic)+key.Size)
	b = append(b, serverKeyMagic...)
	return append(b, k[:]...)
}

// parseServerKey reads the payload of a ServerKey frame (2.2): trailing bytes are for the future
// and ignored.
func parseServerKey(p []byte) (key.NodePublic, error) {
	rest, ok := bytes.CutPrefix(p, []byte(serverKeyMagic))
	if !ok || len(rest) < key.Size || len(p) > maxServerKey {
		return key.NodePublic{}, errServerGreeting
	}
	return key.NodePublic(rest[:key.Size]), nil
}

func appendSendPacket(b []byte, to key.NodePublic, packet []byte) []byte {
	b = appendHeader(b, frameSendPacket, key.Size+len(packet))
	b = append(b, to[:]...)
	return append(b, packet...)
}

func appendForwardPacket(b []byte, from, to key.NodePublic, packet []byte) []byte {
	b = appendHeader(b, frameForwardPacket, 2*key.Size+len(packet))
	b = append(b, from[:]...)
	b = append(b, to[:]...)
	return append(b, packet...)
}

func appendNotePreferred(b []byte, home homeNote) []byte {
	return append(appendHeader(b, frameNotePreferred, 1), byte(home))
}

// homeNote is the byte of a NotePreferred frame (3.5).
type homeNote byte

const (
	notHome homeNote = 0
	isHome  homeNote = 1
)

// goneReason tells why a peer is gone (3.6).
type goneReason byte

const (
	goneDisconnected goneReason = 0x00
	goneNotHere      goneReason = 0x01
)

func appendPeerGone(b []byte, peer key.NodePublic, reason goneReason) []byte {
	b = appendHeader(b, framePeerGone, key.Size+1)
	b = append(b, peer[:]...)
	return append(b, byte(reason))
}

// parsePeerGone reads the payload of a PeerGone frame. Old servers leave the reason out.
func parsePeerGone(p []byte) (peer key.NodePublic, reason goneReason, ok bool) {
	if len(p) < key.Size {
		return peer, 0, false
	}
	if len(p) > key.Size {
		reason = goneReason(p[key.Size])
	}
	return key.NodePublic(p[:key.Size]), reason, true
}

// presentFlags are the bits of a PeerPresent frame (3.7).
type presentFlags byte

const (
	presentRegular  presentFlags = 1 << iota // exactly when no other flag is set
	presentMesh                              // connected with the mesh key
	presentProber                            // a monitoring client
	presentNotIdeal                          // reached this node because a better one did not answer
)

// presence is what a PeerPresent frame says.
type presence struct {
	peer  key.NodePublic
	addr  netip.AddrPort // zero if unknown
	flags presentFlags   // 0 from old servers
}

func appendPeerPresent(b []byte, p presence) []byte {
	b = appendHeader(b, framePeerPresent, peerPresentSize)
	b = append(b, p.peer[:]...)
	if p.addr.IsValid() {
		ip := p.addr.Addr().As16()
		b = append(b, ip[:]...)
		b = binary.BigEndian.AppendUint16(b, p.addr.Port())
	} else {
		b = append(b, make([]byte, 16+2)...)
	}
	return append(b, byte(p.flags))
}

// parsePeerPresent reads the payload of a PeerPresent frame. Old servers leave out the flags, or
// all but the key.
func parsePeerPresent(b []byte) (p presence, ok bool) {
	const addrEnd = key.Size + 16 + 2
	if len(b) < key.Size {
		return p, false
	}
	p.peer = key.NodePublic(b[:key.Size])
	if len(b) >= addrEnd {
		ip := netip.AddrFrom16([16]byte(b[key.Size:])).Unmap()
		port := binary.BigEndian.Uint16(b[key.Size+16:])
		if !ip.IsUnspecified() || port != 0 {
			p.addr = netip.AddrPortFrom(ip, port)
		}
	}
	if len(b) > addrEnd {
		p.flags = presentFlags(b[addrEnd])
	}
	return p, true
}

// pingData is what a Ping carries and its Pong repeats.
type pingData [pingSize]byte

func appendPing(b []byte, d pingData) []byte {
	return append(appendHeader(b, framePing, pingSize), d[:]...)
}

func appendPong(b []byte, d pingData) []byte {
	return append(appendHeader(b, framePong, pingSize), d[:]...)
}

// parsePing reads the payload of a Ping or Pong; what follows the first 8 bytes is not repeated.
func parsePing(p []byte) (d pingData, ok bool) {
	if len(p) < pingSize {
		return d, false
	}
	return pingData(p[:pingSize]), true
}

// restart is what a Restarting frame advises (3.13), both in milliseconds.
type restart struct {
	reconnectIn uint32 // to wait before reconnecting
	tryFor      uint32 // to keep trying before failures count as usual
}

func appendRestarting(b []byte, r restart) []byte {
	b = appendHeader(b, frameRestarting, 8)
	b = binary.BigEndian.AppendUint32(b, r.reconnectIn)
	return binary.BigEndian.AppendUint32(b, r.tryFor)
}

func parseRestarting(p []byte) (r restart, ok bool) {
	if len(p) < 8 {
		return r, false
	}
	return restart{binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])}, true
}
