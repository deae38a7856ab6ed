package node

import (
	"io"
	"testing"
)

// Nothing is allocated for a packet between two nodes on a direct path: stack, WireGuard, sockets
// and back.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	c, s := connected(t, PathDirect)
	go io.Copy(s, s)
	buf := make([]byte, 64)
	exchange := func() {
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		exchange()
	}
	// Heartbeats and timers go on meanwhile; one allocation for each of the four packets would show.
	if n := testing.AllocsPerRun(500, exchange); n >= 2 {
		t.Errorf("%v allocations for an exchange, want 0", n)
	}
}
