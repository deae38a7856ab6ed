package proxy

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// hangup is how a client left while its destination was dialled.
type hangup int

const (
	// stayed: it did not, or it cannot be known.
	stayed hangup = iota
	// left: the connection is broken.
	left
	// finished: the stream has ended. The client may be gone, or wait for what the destination says,
	// to which it need not have sent anything.
	finished
)

// finishedShare is the part of DialTimeout for which a dial may go on once its client has sent all
// it had. Whether such a client is still there cannot be learned before bytes are sent to it.
const finishedShare = 6

// watchAfter is how long a dial takes at the least for its client to be watched meanwhile. Most are
// done before, and nobody minds one that goes on for so long.
const watchAfter = 20 * time.Millisecond

// watch cancels a dial when the client hangs up. It does not consume what the client sends ahead.
type watch struct {
	conn   *conn
	cancel context.CancelFunc
	timer  *time.Timer   // starts run
	stopc  chan struct{} // closed by stop
	donec  chan struct{} // closed when run returns
}

// watch watches c, which nobody may read until stop returns.
func (c *conn) watch(cancel context.CancelFunc) *watch {
	w := &watch{conn: c, cancel: cancel, stopc: make(chan struct{}), donec: make(chan struct{})}
	w.timer = time.AfterFunc(watchAfter, w.run)
	return w
}

func (w *watch) run() {
	defer close(w.donec)
	switch w.conn.awaitHangup() {
	case left:
		w.cancel()
	case finished:
		t := time.NewTimer(w.conn.srv.dialTimeout()/finishedShare - watchAfter) // which it may have waited for already
		defer t.Stop()
		select {
		case <-t.C:
			w.cancel()
		case <-w.stopc:
		}
	}
}

// stop ends the watch and waits for it.
func (w *watch) stop() {
	if w.timer.Stop() {
		return
	}
	close(w.stopc)
	w.conn.SetReadDeadline(time.Unix(1, 0))
	<-w.donec
	w.conn.SetReadDeadline(time.Time{})
}

// awaitHangupByRead is awaitHangup for conns that show their end only to a Read. It knows nothing
// of what happens after the first byte that was sent ahead, which becomes part of c.ahead.
func (c *conn) awaitHangupByRead() hangup {
	if len(c.ahead) > 0 {
		return stayed
	}
	var b [1]byte
	n, err := c.Conn.Read(b[:])
	if n > 0 {
		c.ahead = append(c.ahead, b[0])
		return stayed
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded): // stop
		return stayed
	case err == io.EOF:
		return finished
	}
	return left
}
