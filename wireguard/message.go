package wireguard

import (
	"encoding/binary"
	"time"
)

// Message types and lengths (section 5.4). A message starts with its type as a little-endian
// uint32: one byte and three reserved zero bytes.
const (
	typeInitiation  = 1
	typeResponse    = 2
	typeCookieReply = 3
	typeTransport   = 4

	initiationLen  = 148
	responseLen    = 92
	cookieReplyLen = 64

	macsLen = 32 // MAC1 and MAC2, which end an initiation and a response
	mac2Len = 16

	headerLen = 16 // of a transport data message: type, receiver index, counter
	tagLen    = 16 // of the AEAD

	paddingMultiple = 16 // plaintext is padded to a multiple of it, but not beyond the MTU
)

// Offsets of fields. Those of the initiation and the response are in their own files.
const (
	transportReceiver = 4
	transportCounter  = 8

	cookieReplyReceiver = 4
)

// Constants of section 6.1. They are part of the protocol: peers rely on them.
const (
	rekeyAfterMessages  = 1 << 60
	rejectAfterMessages = 1<<64 - 1<<13 - 1

	rekeyAfterTime    = int64(120 * time.Second)
	rejectAfterTime   = int64(180 * time.Second)
	rekeyAttemptTime  = int64(90 * time.Second)
	rekeyTimeout      = int64(5 * time.Second)
	keepaliveTimeout  = int64(10 * time.Second)
	zeroKeysAfter     = 3 * rejectAfterTime
	maxAttempts       = int(rekeyAttemptTime / rekeyTimeout)
	maxJitter         = int64(333 * time.Millisecond)
	rekeyOnReceiveAge = rejectAfterTime - keepaliveTimeout - rekeyTimeout

	// minInitiationInterval limits how often we answer initiations of one peer, because each costs
	// us four multiplications on the curve.
	minInitiationInterval = int64(20 * time.Millisecond)
)

func messageType(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// isHandshake reports whether b has the type and length of a message that runHandshakes handles.
func isHandshake(b []byte) bool {
	switch messageType(b) {
	case typeInitiation:
		return len(b) == initiationLen
	case typeResponse:
		return len(b) == responseLen
	case typeCookieReply:
		return len(b) == cookieReplyLen
	}
	return false
}
