package transport

import (
	"bytes"
	"testing"
	"time"

	"ginnel/internal/simnet"
	"ginnel/key"
)

func handshakeMessage(kind byte, size int) []byte {
	b := make([]byte, size)
	b[0] = kind
	return b
}

var (
	testInitiation = handshakeMessage(wireGuardInitiation, initiationLen)
	testResponse   = handshakeMessage(wireGuardResponse, responseLen)
)

// arrivedSizes returns the sizes of the messages that WireGuard was given, with their headers.
func arrivedSizes(n *testNode) (sizes []int) {
	for _, a := range n.take() {
		sizes = append(sizes, len(a.text)+dataHeader)
	}
	return sizes
}

// crossingNodes returns two nodes. Node a has just sent b an initiation and holds back one of b's
// for the limit.
func crossingNodes(t *testing.T, w *world) (a, b *testNode, limit time.Duration) {
	a, b = w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
	w.introduce(a, b)
	ep, err := a.c.ParseEndpoint(hexOf(b.key))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.c.Send(0, [][]byte{testInitiation}, ep); err != nil {
		t.Fatal(err)
	}
	if bytes.Compare(a.key[:], b.key[:]) < 0 {
		return a, b, longHold
	}
	return a, b, shortHold
}

func hexOf(k key.NodePublic) string { return newEndpoint(k).DstToString() }

// An initiation that crosses ours is held back, packets after it are not, and it is delivered when
// no response has come in time.
func TestCrossingInitiations(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, limit := crossingNodes(t, w)
		a.c.HandleRelayed(1, b.key, [][]byte{packet("before"), testInitiation, packet("after")})
		time.Sleep(limit - time.Millisecond)
		if got := a.take(); len(got) != 2 || got[0].text != "before" || got[1].text != "after" {
			t.Errorf("at first got %v", got)
		}
		time.Sleep(2 * time.Millisecond)
		if got := arrivedSizes(a); len(got) != 1 || got[0] != initiationLen {
			t.Errorf("then got messages of %d bytes", got)
		}
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation})
		time.Sleep(time.Millisecond)
		if got := arrivedSizes(a); len(got) != 1 {
			t.Errorf("got %d initiations, want the one that crosses nothing", got)
		}
	})
}

// The response to our initiation discards the one that was held back.
func TestResponseDiscardsHeldInitiation(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, _ := crossingNodes(t, w)
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation, testInitiation, testResponse})
		time.Sleep(time.Second)
		if got := arrivedSizes(a); len(got) != 1 || got[0] != responseLen {
			t.Errorf("got messages of %d bytes, want the response", got)
		}
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation})
		time.Sleep(time.Millisecond)
		if got := arrivedSizes(a); len(got) != 1 {
			t.Errorf("got %d initiations, want the peer's next one", got)
		}
	})
}

// If both sides hold back the other's initiation, one delivers it earlier by more than a handshake
// takes.
func TestHoldsDiffer(t *testing.T) {
	if longHold-shortHold < 2*handshakeTime {
		t.Errorf("the sides hold for %v and %v", shortHold, longHold)
	}
	var h crossing
	now := time.Unix(1000, 0)
	h.sent(now)
	if h.hold(testInitiation, longHold, now.Add(-time.Hour), nil) {
		t.Error("a clock that was set back holds an initiation back")
	}
}

// Messages of WireGuard are recognised by type and size.
func TestHandshakeMessages(t *testing.T) {
	for _, c := range []struct {
		b                    []byte
		initiation, response bool
	}{
		{testInitiation, true, false}, {testResponse, false, true}, {handshakeMessage(1, 92), false, false},
		{handshakeMessage(2, 148), false, false}, {handshakeMessage(3, 64), false, false},
		{handshakeMessage(4, 148), false, false}, {nil, false, false},
	} {
		if isInitiation(c.b) != c.initiation || isResponse(c.b) != c.response {
			t.Errorf("type %v of %d bytes: initiation %v, response %v", c.b[:min(1, len(c.b))], len(c.b), isInitiation(c.b),
				isResponse(c.b))
		}
	}
}

// After a change of our node key the hold follows the new key, as peers expect.
func TestHoldFollowsKey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, _ := crossingNodes(t, w)
		a.c.SetNodeKey(key.NodePublic{}) // below any other
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation})
		time.Sleep(longHold - time.Millisecond)
		if got := arrivedSizes(a); len(got) != 0 {
			t.Errorf("after %v got messages of %d bytes", longHold-time.Millisecond, got)
		}
		time.Sleep(2 * time.Millisecond)
		if got := arrivedSizes(a); len(got) != 1 {
			t.Errorf("after %v got messages of %d bytes", longHold+time.Millisecond, got)
		}
	})
}
