package node

import (
	"io"
	"testing"
)

// A packet between two nodes on a direct path needs no allocation in the stack, WireGuard and the
// sockets; neither does the reply.
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
	// Heartbeats and timers run meanwhile. One allocation for each of the four packets would exceed
	// the limit.
	if n := testing.AllocsPerRun(500, exchange); n >= 2 {
		t.Errorf("%v allocations for an exchange, want 0", n)
	}
}
