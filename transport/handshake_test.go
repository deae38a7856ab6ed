package transport

import (
	"bytes"
	"testing"
	"time"

	"ginnel/internal/key"
	"ginnel/internal/simnet"
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

// sizes are those of what arrived, with their headers.
func arrivedSizes(n *testNode) (sizes []int) {
	for _, a := range n.take() {
		sizes = append(sizes, len(a.text)+dataHeader)
	}
	return sizes
}

// crossing is two nodes of which one has begun a handshake with the other; the patience is that of
// the former.
func crossing(t *testing.T, w *world) (a, b *testNode, patience time.Duration) {
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
		return a, b, late
	}
	return a, b, soon
}

func hexOf(k key.NodePublic) string { return newEndpoint(k).DstToString() }

// A beginning that crosses ours waits, and what comes after it does not; when no answer has come it
// has its turn.
func TestCrossingBeginnings(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, patience := crossing(t, w)
		a.c.HandleRelayed(1, b.key, [][]byte{packet("before"), testInitiation, packet("after")})
		time.Sleep(patience - time.Millisecond)
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
			t.Errorf("of a beginning that crosses nothing got %d", got)
		}
	})
}

// The answer to ours makes a beginning void that crossed it.
func TestAnswerVoidsCrossingBeginning(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, _ := crossing(t, w)
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation, testInitiation, testResponse})
		time.Sleep(time.Second)
		if got := arrivedSizes(a); len(got) != 1 || got[0] != responseLen {
			t.Errorf("got messages of %d bytes, want the response", got)
		}
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation})
		time.Sleep(time.Millisecond)
		if got := arrivedSizes(a); len(got) != 1 {
			t.Errorf("of the peer's next beginning got %d", got)
		}
	})
}

// Of two sides that both put the other's beginning aside one is sooner by more than a handshake
// takes.
func TestSidesDiffer(t *testing.T) {
	if late-soon < 2*handshakeTime {
		t.Errorf("sides wait for %v and %v", soon, late)
	}
	var h handshakes
	now := time.Unix(1000, 0)
	h.sent(now)
	if h.crosses(testInitiation, late, now.Add(-time.Hour), nil) {
		t.Error("a clock that was set back holds a beginning back")
	}
}

// WireGuard's messages are told by type and size.
func TestHandshakeMessages(t *testing.T) {
	for _, c := range []struct {
		b                    []byte
		initiation, response bool
	}{
		{testInitiation, true, false}, {testResponse, false, true}, {handshakeMessage(1, 92), false, false},
		{handshakeMessage(2, 148), false, false}, {handshakeMessage(3, 64), false, false}, {handshakeMessage(4, 148), false, false}, {nil, false, false},
	} {
		if isInitiation(c.b) != c.initiation || isResponse(c.b) != c.response {
			t.Errorf("type %v of %d bytes: initiation %v, response %v", c.b[:min(1, len(c.b))], len(c.b), isInitiation(c.b), isResponse(c.b))
		}
	}
}

// A node that has another key now waits as long as that says, as its peers will expect.
func TestPatienceFollowsKey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, _ := crossing(t, w)
		a.c.SetNodeKey(key.NodePublic{}) // below any other
		a.c.HandleRelayed(1, b.key, [][]byte{testInitiation})
		time.Sleep(late - time.Millisecond)
		if got := arrivedSizes(a); len(got) != 0 {
			t.Errorf("after %v got messages of %d bytes", late-time.Millisecond, got)
		}
		time.Sleep(2 * time.Millisecond)
		if got := arrivedSizes(a); len(got) != 1 {
			t.Errorf("after %v got messages of %d bytes", late+time.Millisecond, got)
		}
	})
}
