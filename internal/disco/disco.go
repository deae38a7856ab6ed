// Package disco is the codec of the discovery messages that peers exchange beside WireGuard to find
// a direct path (disco specification, section 1). It has no state, reads no clock and does not log.
//
// A disco packet is
//
//	magic  6   54 53 f0 9f 92 ac
//	sender 32  the sender's disco public key
//	nonce  24
//	box    16+n  NaCl box of the n-byte plaintext
//
// and its plaintext is
//
//	type    1
//	version 1  always written as 0
//	body
//
// Every address in a body takes 18 bytes: 16 of IP (IPv4 as IPv4-mapped IPv6), 2 of port. All
// integers are big endian.
package disco

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"ginnel/key"
)

const (
	magic = "TS\xf0\x9f\x92\xac"

	// headerLen is the length of magic and sender. A datagram that starts with the magic and has at
	// least this length is a disco packet, even if it is too short for a box (section 1.5, rule 3).
	headerLen = len(magic) + key.Size

	// Overhead is how many bytes Seal adds to a plaintext.
	Overhead = headerLen + key.Overhead

	addrPortLen = 16 + 2
)

// kind is the message type, the first byte of a plaintext.
type kind byte

const (
	kindPing        kind = 0x01
	kindPong        kind = 0x02
	kindCallMeMaybe kind = 0x03

	// The kinds from firstPeerRelay to lastPeerRelay belong to peer relays, see PeerRelay.
	firstPeerRelay kind = 0x04
	lastPeerRelay  kind = 0x09
)

// Message is one of the message types of this package.
type Message interface {
	kind() kind
	// appendBody appends the body: the plaintext without type and version.
	appendBody(b []byte) []byte
}

var (
	errBox   = errors.New("disco: box does not open")
	errShort = errors.New("disco: message too short")
)

// Is reports whether packet, a received datagram, is a disco packet.
func Is(packet []byte) bool {
	return len(packet) >= headerLen && string(packet[:len(magic)]) == magic
}

// Sender returns the sender key in a packet for which Is returns true. The sender is proven only
// when Open succeeds.
func Sender(packet []byte) key.DiscoPublic {
	return key.DiscoPublic(packet[len(magic):headerLen])
}

// Seal appends the packet that carries m from sender to dst. shared is the key that the sender
// shares with the receiver.
func Seal(dst []byte, sender key.DiscoPublic, shared *key.Shared, m Message) []byte {
	dst = append(dst, magic...)
	dst = append(dst, sender[:]...)
	return shared.Seal(dst, appendMessage(nil, m))
}

// Open decrypts and parses a packet for which Is returns true. The message does not alias packet.
func Open(shared *key.Shared, packet []byte) (Message, error) {
	plain, ok := shared.Open(nil, packet[headerLen:])
	if !ok {
		return nil, errBox
	}
	return parse(plain)
}

func appendMessage(b []byte, m Message) []byte {
	return m.appendBody(append(b, byte(m.kind()), 0))
}

// parse parses a plaintext. Bytes after the known part of a body are ignored, so that later
// versions can add fields.
func parse(p []byte) (Message, error) {
	if len(p) < 2 {
		return nil, errShort
	}
	k, version, body := kind(p[0]), p[1], p[2:]
	switch k {
	case kindPing:
		return parsePing(body)
	case kindPong:
		return parsePong(body)
	case kindCallMeMaybe:
		return parseCallMeMaybe(version, body), nil
	}
	if firstPeerRelay <= k && k <= lastPeerRelay {
		return &PeerRelay{k}, nil
	}
	return nil, fmt.Errorf("disco: unknown message type 0x%02x", byte(k))
}

func appendAddrPort(b []byte, ap netip.AddrPort) []byte {
	ip := ap.Addr().As16()
	b = append(b, ip[:]...)
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

// parseAddrPort parses the first 18 bytes of b.
func parseAddrPort(b []byte) netip.AddrPort {
	ip := netip.AddrFrom16([16]byte(b)).Unmap()
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[16:]))
}

func appendAddrPorts(b []byte, aps []netip.AddrPort) []byte {
	for _, ap := range aps {
		b = appendAddrPort(b, ap)
	}
	return b
}

// parseAddrPorts parses all complete addresses in b.
func parseAddrPorts(b []byte) []netip.AddrPort {
	aps := make([]netip.AddrPort, 0, len(b)/addrPortLen)
	for ; len(b) >= addrPortLen; b = b[addrPortLen:] {
		aps = append(aps, parseAddrPort(b))
	}
	return aps
}
