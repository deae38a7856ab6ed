package proxy

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// hangup is what a hangupWatch has seen of a client.
type hangup int

const (
	// hangupNone: the client has not hung up, or that cannot be known.
	hangupNone hangup = iota
	// hangupBroken: the connection is broken.
	hangupBroken
	// hangupEOF: the client has ended its stream. It may have closed its socket, or only half-closed
	// it and wait for a destination that speaks first.
	hangupEOF
)

// eofDivisor gives the time that a dial has after the client has ended its stream: DialTimeout
// divided by it. Whether such a client still listens shows only when bytes are sent to it.
const eofDivisor = 6

// watchDelay is how long a dial takes before the client is watched. Most dials end earlier, and a
// dial that goes on for so long after a hang-up does no harm.
const watchDelay = 20 * time.Millisecond

// hangupWatch cancels a dial when the client hangs up. It does not consume bytes of the client.
type hangupWatch struct {
	conn   *conn
	cancel context.CancelFunc
	timer  *time.Timer   // starts run after watchDelay
	stopc  chan struct{} // closed by stop
	donec  chan struct{} // closed when run returns
}

// watchHangup watches c. No other goroutine may read c until stop returns.
func (c *conn) watchHangup(cancel context.CancelFunc) *hangupWatch {
	w := &hangupWatch{conn: c, cancel: cancel, stopc: make(chan struct{}), donec: make(chan struct{})}
	w.timer = time.AfterFunc(watchDelay, w.run)
	return w
}

func (w *hangupWatch) run() {
	defer close(w.donec)
	switch w.conn.awaitHangup() {
	case hangupBroken:
		w.cancel()
	case hangupEOF:
		t := time.NewTimer(w.conn.srv.dialTimeout()/eofDivisor - watchDelay) // the EOF may have come before run
		defer t.Stop()
		select {
		case <-t.C:
			w.cancel()
		case <-w.stopc:
		}
	}
}

// stop ends the watch and waits for it.
func (w *hangupWatch) stop() {
	if w.timer.Stop() {
		return
	}
	close(w.stopc)
	w.conn.SetReadDeadline(time.Unix(1, 0))
	<-w.donec
	w.conn.SetReadDeadline(time.Time{})
}

// awaitHangupByRead is awaitHangup for conns that show a hang-up only to Read. If the client sends
// a byte ahead, the byte becomes part of c.ahead, and a later hang-up is not seen.
func (c *conn) awaitHangupByRead() hangup {
	if len(c.ahead) > 0 {
		return hangupNone
	}
	var b [1]byte
	n, err := c.Conn.Read(b[:])
	if n > 0 {
		c.ahead = append(c.ahead, b[0])
		return hangupNone
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded): // by stop
		return hangupNone
	case err == io.EOF:
		return hangupEOF
	}
	return hangupBroken
}
