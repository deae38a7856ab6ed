package transport

import (
	"encoding/binary"

	"ginnel/internal/disco"
)

// class is what a received datagram is (disco specification, section 1.5).
type class int

const (
	classWireGuard class = iota // or anything else: WireGuard drops what it does not know
	classDisco
	classSTUN
)

const (
	geneveLen       = 8
	geneveDisco     = 0x7a11
	geneveWireGuard = 0x7a12
)

const stunCookie = 0x2112a442

// classify returns the class of datagram b, and whether it has a Geneve header, which only peer
// relays add. The specification gives the order of the tests; the classes cannot collide.
func classify(b []byte) (c class, geneve bool) {
	if len(b) >= 20 && b[0]&0xc0 == 0 && b[1] == 0x01 && binary.BigEndian.Uint32(b[4:]) == stunCookie {
		return classSTUN, false
	}
	if len(b) >= geneveLen && b[0]&0xc0 == 0 && b[1]&0x3f == 0 && b[7] == 0 {
		switch binary.BigEndian.Uint16(b[2:]) {
		case geneveDisco:
			if disco.Is(b[geneveLen:]) {
				return classDisco, true
			}
			return classWireGuard, false
		case geneveWireGuard:
			return classWireGuard, true
		}
	}
	if disco.Is(b) {
		return classDisco, false
	}
	return classWireGuard, false
}
