package relay

import (
	"testing"

	"golang.org/x/sys/unix"
)

// What the system holds for a receiver that reads nothing, beyond what it has sent, is what it was told and less than
// one buffer of its own more.
func TestSockHoldsUnsent(t *testing.T) {
	for _, limit := range []int{leastUnsent, mostUnsent} {
		near, far := tcpPair(t)
		near.SetWriteBuffer(4 << 20)
		far.SetReadBuffer(64 << 10)
		s := newSock(near).(*sock)
		s.start(func() {})
		s.holdUnsent(limit)
		for !s.pending() {
			if _, err := s.Write(make([]byte, 4<<10)); err != nil {
				t.Fatal(err)
			}
		}
		var unsent int
		s.raw.Control(func(fd uintptr) { unsent, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
		if unsent < limit || unsent > limit+64<<10 {
			t.Errorf("%d bytes are held unsent, want %d", unsent, limit)
		}
	}
}
