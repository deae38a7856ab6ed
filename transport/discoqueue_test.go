package transport

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"ginnel/internal/disco"
	"ginnel/internal/simnet"
	"ginnel/key"
)

// holdLoop keeps the loop busy until release is called.
func (n *testNode) holdLoop() (release func()) {
	heldc, releasec := make(chan struct{}), make(chan struct{})
	n.w.wg.Go(func() {
		n.c.call(func(*loop) {
			close(heldc)
			<-releasec
		})
	})
	<-heldc
	return func() { close(releasec) }
}

// boxes returns the key of the boxes that the holder of a disco key makes for n.
func (n *testNode) boxes(with key.DiscoPrivate) *key.Shared {
	shared, err := with.Shared(n.c.DiscoKey())
	if err != nil {
		n.w.t.Fatal(err)
	}
	return shared
}

// sealed returns a ping that names sender. It is forged if the box is made with another key.
func sealed(sender key.DiscoPublic, box *key.Shared, i int) []byte {
	m := &disco.Ping{}
	binary.BigEndian.PutUint32(m.TxID[:], uint32(i))
	return disco.Seal(nil, sender, box, m)
}

// While the loop is busy, messages of strangers, forgeries and unasked STUN answers take no place
// in its queue. One peer takes its share and no more, so another peer's message still gets in.
func TestLoopQueueIsKeptForPeers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.node("a", w.home(1, simnet.None))
		busy, quiet, stranger := key.NewDiscoPrivate(), key.NewDiscoPrivate(), key.NewDiscoPrivate()
		a.c.SetPeers([]Peer{
			{Key: key.NewNodePrivate().Public(), Disco: busy.Public()},
			{Key: key.NewNodePrivate().Public(), Disco: quiet.Public()},
		})
		time.Sleep(time.Second)
		busyBox, quietBox, strangeBox := a.boxes(busy), a.boxes(quiet), a.boxes(stranger)
		release := a.holdLoop()
		src := netip.MustParseAddrPort("198.51.100.66:66")
		var answer [20]byte
		answer[0], answer[1] = 0x01, 0x01
		binary.BigEndian.PutUint32(answer[4:], stunCookie)
		for i := range 2 * loopQueue {
			a.c.tellDisco(sealed(stranger.Public(), strangeBox, i), src)
			a.c.tellDisco(sealed(busy.Public(), strangeBox, i), src)
			a.c.tellRelayedDisco(sealed(busy.Public(), strangeBox, i), 1, key.NewNodePrivate().Public())
			binary.BigEndian.PutUint32(answer[8:], uint32(i))
			a.c.tellSTUN(answer[:])
		}
		if n := len(a.c.msgc); n != 0 {
			t.Errorf("%d messages of strangers wait for the loop", n)
		}
		for i := range 2 * loopQueue {
			a.c.tellDisco(sealed(busy.Public(), busyBox, i), src)
		}
		if n := len(a.c.msgc); n != keyQueue {
			t.Errorf("%d messages of one peer wait, want %d", n, keyQueue)
		}
		a.c.tellDisco(sealed(quiet.Public(), quietBox, 1), src)
		if n := len(a.c.msgc); n != keyQueue+1 {
			t.Errorf("%d messages wait, want that of another peer among them", n)
		}
		release()
		time.Sleep(time.Second)
		d := a.c.Status().Dropped
		if d["disco_unknown"] != 2*loopQueue || d["disco_bad"] != 4*loopQueue || d["stun_unasked"] != 2*loopQueue ||
			d["busy"] != 2*loopQueue-keyQueue {
			t.Errorf("dropped %v", d)
		}
		for _, k := range []key.DiscoPublic{busy.Public(), quiet.Public()} {
			if n := a.c.expected.key(k).queued.Load(); n != 0 {
				t.Errorf("%d messages of %v count as waiting", n, k)
			}
		}
		a.c.SetPeers(nil)
		a.c.expected.keys.Range(func(k, _ any) bool {
			t.Errorf("%v is let through although it is no peer's", k)
			return true
		})
	})
}

// The answer of a STUN server counts once. Answers to an earlier round do not count.
func TestSTUNAnswersCountOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.node("a", w.home(1, simnet.None))
		time.Sleep(time.Second)
		if s := a.c.Status(); !s.Global4.IsValid() {
			t.Fatalf("no answer has come: %+v", s)
		}
		var ids []stunTxID
		a.c.call(func(l *loop) {
			l.prober.running = false
			l.startSTUN(time.Now())
			a.c.expected.stun.Range(func(k, _ any) bool { ids = append(ids, k.(stunTxID)); return true })
		})
		if len(ids) != 1 {
			t.Fatalf("%d requests are expected to be answered, want 1", len(ids))
		}
		before := a.c.Status().Dropped["stun_unasked"]
		time.Sleep(time.Second) // the server answers
		var late [20]byte
		late[0], late[1] = 0x01, 0x01
		binary.BigEndian.PutUint32(late[4:], stunCookie)
		copy(late[8:], ids[0][:])
		a.c.tellSTUN(late[:])
		if n := a.c.Status().Dropped["stun_unasked"] - before; n != 1 {
			t.Errorf("%d answers were dropped, want the second one", n)
		}
	})
}
