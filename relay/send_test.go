package relay

import (
	"io"
	"net"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// A client sends packets without allocating.
func TestSendAllocatesNothing(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	go io.Copy(io.Discard, far)
	base := derp.WrapTCP(near, net.KeepAliveConfig{})
	c := &Client{session: &session{conn: derp.NewFrameConn(base, base, time.Second)}}
	c.out = newSender(&c.wg)
	c.start()
	defer c.Close()
	batch, to := relaytest.Batch(46), key.NewNodePrivate().Public()
	for range 1000 {
		c.Send(to, batch)
	}
	if n := testing.AllocsPerRun(1000, func() { c.Send(to, batch) }); n > 1+relaytest.RaceSlack {
		t.Errorf("%v allocations for a batch of %d", n, len(batch))
	}
}
