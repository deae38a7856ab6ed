//go:build linux && !ginnel_stdnet

package derp

import (
	"io"
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ginnel/relay/internal/relaytest"

	"ginnel/internal/sys"
)

// What the system holds for a receiver that reads nothing, beyond what it has sent, is what it was
// told and less than one buffer of its own more.
func TestSockHoldsUnsent(t *testing.T) {
	for _, limit := range []int{leastUnsent, mostUnsent} {
		near, far := relaytest.TCPPair(t)
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

// A connection with a limit takes the time that the limit makes it take; without one it may send at
// any rate.
func TestSetPacingLimitsRate(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	go io.Copy(io.Discard, far)
	s := newSock(near).(*sock)
	state := func() (st sys.TCPState) {
		s.raw.Control(func(fd uintptr) { st, _ = sys.ReadTCPState(fd) })
		return st
	}
	const rate = 4 << 20
	s.raw.Control(func(fd uintptr) { sys.SetPacing(fd, rate) })
	begin := time.Now()
	if _, err := near.Write(make([]byte, rate/2)); err != nil {
		t.Fatal(err)
	}
	for state().Sent < rate/2 {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(begin); took < 250*time.Millisecond { // the first packets leave at once
		t.Errorf("sent in %v what takes 500 ms at the limit", took)
	}
	s.raw.Control(func(fd uintptr) {
		sys.SetPacing(fd, 0)
		if limit, err := unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE); limit != math.MaxUint64 {
			t.Errorf("limit of %d bytes a second (%v), want none", limit, err)
		}
	})
}

// A connection that leaves BBR uses CUBIC, if this process may choose it, and comes back to BBR.
func TestSetCongestion(t *testing.T) {
	near, _ := relaytest.TCPPair(t)
	s := newSock(near).(*sock)
	use := func(c congestion) (name string) {
		s.raw.Control(func(fd uintptr) {
			setCongestion(fd, c)
			name = sys.Congestion(fd)
		})
		return name
	}
	may := func(name string) bool {
		other, _ := relaytest.TCPPair(t)
		var err error
		newSock(other).(*sock).raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		})
		return err == nil
	}
	first := use(systemChoice)
	withBBR, want := first, first
	if may("bbr") {
		withBBR, want = "bbr", "bbr"
	}
	if got := use(useBBR); got != withBBR {
		t.Errorf("%s on a lossy path, want %s", got, withBBR)
	}
	if withBBR == "bbr" && may("cubic") {
		want = "cubic"
	}
	if got := use(notBBR); got != want {
		t.Errorf("%s on a path without loss, want %s", got, want)
	}
}
