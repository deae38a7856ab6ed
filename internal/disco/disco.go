// Package disco is the codec of the discovery messages that peers exchange beside WireGuard to find
// a direct path (disco specification, section 1). It is pure: no clock, no log, no state.
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

	"ginnel/internal/key"
)

const (
	magic = "TS\xf0\x9f\x92\xac"

	// headerLen is the length of magic and sender. A datagram of at least this length that starts with
	// the magic is disco, even if it is too short for a box (section 1.5, rule 3).
	headerLen = len(magic) + key.Size

	// Overhead is what Seal adds to a plaintext.
	Overhead = headerLen + key.Overhead

	addrPortLen = 16 + 2
)

// Kind is the first byte of a plaintext.
type Kind byte

// The kinds of message that exist. Those from KindBind on belong to peer relays.
const (
	KindPing             Kind = 0x01
	KindPong             Kind = 0x02
	KindCallMeMaybe      Kind = 0x03
	KindBind             Kind = 0x04
	KindBindChallenge    Kind = 0x05
	KindBindAnswer       Kind = 0x06
	KindCallMeMaybeVia   Kind = 0x07
	KindAllocateRequest  Kind = 0x08
	KindAllocateResponse Kind = 0x09
)

// Message is one of the message types of this package.
type Message interface {
	kind() Kind
	// appendBody appends the body, without type and version.
	appendBody(b []byte) []byte
}

var (
	errBox   = errors.New("disco: box does not open")
	errShort = errors.New("disco: message too short")
)

// Is reports whether a received datagram is a disco packet.
func Is(packet []byte) bool {
	return len(packet) >= headerLen && string(packet[:len(magic)]) == magic
}

// Sender returns the sender that a packet, for which Is holds, claims to have. Only opening the box
// proves it.
func Sender(packet []byte) key.DiscoPublic {
	return key.DiscoPublic(packet[len(magic):headerLen])
}

// Seal appends the whole packet that carries m from sender to dst. It must not overlap dst.
func Seal(dst []byte, sender key.DiscoPublic, shared *key.Shared, m Message) []byte {
	dst = append(dst, magic...)
	dst = append(dst, sender[:]...)
	return shared.Seal(dst, appendMessage(nil, m))
}

// Open decrypts and parses a packet for which Is holds. The message does not alias packet.
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

// parse reads a plaintext. Bytes after the known part of a body are ignored, so that later versions
// can grow.
func parse(p []byte) (Message, error) {
	if len(p) < 2 {
		return nil, errShort
	}
	kind, version, body := Kind(p[0]), p[1], p[2:]
	switch kind {
	case KindPing:
		return parsePing(body)
	case KindPong:
		return parsePong(body)
	case KindCallMeMaybe:
		return parseCallMeMaybe(version, body), nil
	case KindBind, KindBindChallenge, KindBindAnswer:
		return parseBind(kind, body)
	case KindCallMeMaybeVia:
		return parseCallMeMaybeVia(version, body)
	case KindAllocateRequest:
		return parseAllocateRequest(version, body)
	case KindAllocateResponse:
		return parseAllocateResponse(version, body)
	}
	return nil, fmt.Errorf("disco: unknown message type 0x%02x", byte(kind))
}

func appendAddrPort(b []byte, ap netip.AddrPort) []byte {
	ip := ap.Addr().As16()
	b = append(b, ip[:]...)
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

// parseAddrPort reads the first 18 bytes of b.
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

// parseAddrPorts reads as many addresses as fit into b.
func parseAddrPorts(b []byte) []netip.AddrPort {
	aps := make([]netip.AddrPort, 0, len(b)/addrPortLen)
	for ; len(b) >= addrPortLen; b = b[addrPortLen:] {
		aps = append(aps, parseAddrPort(b))
	}
	return aps
}
