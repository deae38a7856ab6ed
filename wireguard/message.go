package wireguard

import (
	"encoding/binary"
	"time"
)

// Messages, by the little endian number that they begin with (section 5.4).
const (
	typeInitiation = 1
	typeResponse   = 2
	typeCookie     = 3
	typeData       = 4

	initiationLen  = 148
	responseLen    = 92
	cookieLen      = 64
	cookieReceiver = 4
	macsLen        = 32 // at the end of the first two

	headerLen = 16 // of data: type, receiver, counter
	tagLen    = 16
	maxLen    = 64<<10 - 1 // of a datagram

	padding = 16 // plaintext is filled up to a multiple of it, but not beyond the MTU
)

// Section 6.1. All are of the protocol: peers count on them.
const (
	rekeyAfterMessages  = 1 << 60
	rejectAfterMessages = 1<<64 - 1<<13 - 1

	rekeyAfter   = int64(120 * time.Second)
	rejectAfter  = int64(180 * time.Second)
	rekeyTimeout = int64(5 * time.Second)
	keepaliveIn  = int64(10 * time.Second)
	attemptsFor  = int64(90 * time.Second)
	forgetAfter  = 3 * rejectAfter

	maxAttempts = int(attemptsFor / rekeyTimeout)
	maxJitter   = int64(333 * time.Millisecond)

	// A peer is not answered more often: every beginning costs us four multiplications on the curve.
	minBetween = int64(20 * time.Millisecond)
)

func messageType(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// isHandshake reports whether b has the form of a message that loop takes.
func isHandshake(b []byte) bool {
	switch messageType(b) {
	case typeInitiation:
		return len(b) == initiationLen
	case typeResponse:
		return len(b) == responseLen
	case typeCookie:
		return len(b) == cookieLen
	}
	return false
}
