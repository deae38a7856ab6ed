package derp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/relay/internal/relaytest"
)

// atomicCounter counts frames from several goroutines.
type atomicCounter struct {
	sentFrames atomic.Int64
	drops      [NumDropReasons]atomic.Int64
}

func (l *atomicCounter) Sent(_ Class, frames []byte) { l.sentFrames.Add(int64(CountFrames(frames))) }

func (l *atomicCounter) Dropped(_ Class, r DropReason, frames []byte) {
	l.drops[r].Add(int64(CountFrames(frames)))
}

// testOutbox is an outbox on a connection in memory that buffers limit bytes.
type testOutbox struct {
	*Outbox
	wg   sync.WaitGroup
	l    atomicCounter
	conn *FrameConn
	far  *relaytest.Conn
}

func newTestOutbox(limit int) *testOutbox {
	o := new(testOutbox)
	o.Outbox = NewOutbox(&o.wg, &testLimits, new(Budget), &o.l)
	near, far := relaytest.Pipe(limit, netip.AddrPort{}, netip.AddrPort{})
	o.conn, o.far = NewFrameConn(near, near, 2*time.Second), far
	return o
}

// end closes everything and waits.
func (o *testOutbox) end() {
	o.Close()
	o.conn.Fail(net.ErrClosed)
	o.wg.Wait()
}

var bulkID = testFlow(1, ClassData)

func TestOutboxKeepsFramesUntilAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1 << 20)
		defer o.end()
		frames := testFrames(1, 0, 20, 1000)
		o.Send(bulkID, frames[:10_000], 0)
		o.Send(bulkID, frames[10_000:], 0)
		synctest.Wait()
		if n := o.l.sentFrames.Load(); n != 0 {
			t.Fatalf("%d frames sent without a connection", n)
		}
		o.Attach(o.conn)
		got := make([]byte, len(frames))
		if _, err := io.ReadFull(o.far, got); err != nil || string(got) != string(frames) {
			t.Errorf("frames changed on the way (%v)", err)
		}
	})
}

// A sender whose flow is full waits until there is room.
func TestOutboxBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1000)
		o.Attach(o.conn)
		frames := testFrames(1, 0, 500, 1000)
		var reading sync.WaitGroup
		reading.Go(func() {
			buf := make([]byte, 100_000)
			for range 100 {
				time.Sleep(time.Millisecond)
				if _, err := io.ReadFull(o.far, buf); err != nil {
					return
				}
			}
		})
		var waited time.Duration
		for range 4 {
			res, err := o.Send(bulkID, frames, 25*time.Millisecond)
			if err != nil || res.Dropped != 0 {
				t.Fatalf("got %+v, %v: a receiver that reads 100 MB/s loses packets", res, err)
			}
			waited += res.Waited
		}
		if waited < 10*time.Millisecond {
			t.Errorf("waited %v for 2 MB at 100 MB/s", waited)
		}
		o.end()
		reading.Wait()
	})
}

// Only one sender waits for a receiver that takes no bytes. After that, senders drop at once until
// half of the flow has drained.
func TestOutboxStuckReceiverDelaysOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1000)
		o.conn.Timeout = time.Hour
		defer o.end()
		o.Attach(o.conn)
		frames := testFrames(1, 0, 500, 1000)
		const patience = 25 * time.Millisecond
		res, _ := o.Send(bulkID, frames, patience)
		if res.Waited != patience || res.Dropped < 200_000 {
			t.Fatalf("first send: %+v, want a wait of %v and the rest dropped", res, patience)
		}
		for range 10 {
			if res, _ := o.Send(bulkID, frames, patience); res.Waited != 0 || res.Dropped != len(frames) {
				t.Fatalf("later send: %+v, want everything dropped at once", res)
			}
		}
		if got := o.l.drops[dropQueueTail].Load(); got < 5000 {
			t.Errorf("%d drops counted", got)
		}
		go io.Copy(io.Discard, o.far)
		synctest.Wait()
		if res, _ := o.Send(bulkID, frames[:100_000], patience); res.Dropped != 0 {
			t.Errorf("after the receiver woke up: %+v", res)
		}
	})
}

// Close ends every wait. Later sends fail.
func TestOutboxClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1000)
		o.Attach(o.conn)
		frames := testFrames(1, 0, 500, 1000)
		var waiting sync.WaitGroup
		for i := range 3 {
			waiting.Go(func() {
				start := time.Now()
				if _, err := o.Send(testFlow(i, ClassData), frames, time.Hour); !errors.Is(err, net.ErrClosed) {
					t.Errorf("send ended by close: %v", err)
				}
				if d := time.Since(start); d != time.Second {
					t.Errorf("send ended after %v, closed after 1s", d)
				}
			})
		}
		time.Sleep(time.Second)
		o.end()
		waiting.Wait()
		if _, err := o.Send(bulkID, frames, time.Hour); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after close: %v", err)
		}
		if n := o.queue.budget.used.Load(); n != 0 {
			t.Errorf("%d bytes still queued after close", n)
		}
		o.end()
	})
}

// A connection that takes no bytes for the write timeout fails, and its queued frames stay for the
// next connection.
func TestOutboxWriteTimeoutAndNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1000)
		defer o.end()
		o.Attach(o.conn)
		start := time.Now()
		frames := testFrames(1, 0, 100, 1000)
		o.Send(bulkID, frames, 0)
		for !o.far.OtherEndClosed() {
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(start).Round(10 * time.Millisecond); d != 2*time.Second {
			t.Errorf("cut after %v, want 2s", d)
		}
		if err := o.conn.Cause(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("cut because of %v, want a time-out", err)
		}
		o.Detach()
		second := newTestOutbox(1 << 20)
		o.Attach(second.conn)
		o.Send(bulkID, testFrames(1, 100, 1, 1000), 0)
		synctest.Wait()
		// What was being written is lost, what has waited for more than a second too; the new frame is
		// not.
		if n := o.l.sentFrames.Load(); n != 1 {
			t.Errorf("%d frames sent on the second connection, want 1", n)
		}
		if n := o.l.drops[dropWriteError].Load() + o.l.drops[dropQueueHead].Load(); n != 100 {
			t.Errorf("%d of 100 frames dropped", n)
		}
		second.conn.Fail(net.ErrClosed)
	})
}

func TestOutboxDetachWaitsForWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(10)
		defer o.end()
		o.Attach(o.conn)
		o.Send(bulkID, testFrames(1, 0, 10, 1000), 0)
		synctest.Wait() // the writer is stuck
		o.Detach()
		o.mu.Lock()
		if o.writing || o.Outbox.conn != nil {
			t.Error("somebody still writes after detach")
		}
		o.mu.Unlock()
	})
}

func TestOutboxWaitIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1000)
		defer o.end()
		o.Attach(o.conn)
		o.WaitIdle(t.Context()) // nothing to wait for
		o.Send(bulkID, testFrames(1, 0, 10, 1000), 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		o.WaitIdle(ctx)
		if d := time.Since(start); d != time.Second {
			t.Errorf("waited %v for a stuck receiver, want until the end of the context", d)
		}
		go io.Copy(io.Discard, o.far)
		o.WaitIdle(t.Context())
		if n := o.l.sentFrames.Load(); n != 10 {
			t.Errorf("settled with %d of 10 frames sent", n)
		}
	})
}

// Writing to a socket in the sender's goroutine never waits, even for a stuck receiver. No accepted
// byte is lost or reordered.
func TestOutboxDirectNeverWaits(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	base := newSock(near)
	w := NewFrameConn(base, base, 10*time.Second)
	if !w.nonblocking() {
		return // not on this system
	}
	var wg sync.WaitGroup
	var l atomicCounter
	limits := testLimits
	limits.MaxAge = time.Hour
	o := NewOutbox(&wg, &limits, new(Budget), &l)
	w.Start(o.StartDrain)
	o.Attach(w)
	start := time.Now()
	for i := range 400 { // 4 MB into a socket that nobody reads
		o.Send(bulkID, testFrames(1, 10*i, 10, 1000), 0)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("sending took %v", d)
	}
	if l.drops[dropQueueTail].Load() == 0 {
		t.Error("nothing dropped: the queue has no bound")
	}
	accepted := 4000 - l.drops[dropQueueTail].Load()
	got := make([]byte, accepted*1000)
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatalf("reading %d accepted frames: %v", accepted, err)
	}
	last := ""
	for ; len(got) > 0; got = got[1000:] {
		name := string(got[SendOverhead : SendOverhead+8])
		if FrameSize(got) != 1000 || len(name) < 3 || name[:2] != "1/" || name == last {
			t.Fatalf("frame %q after %q", name, last)
		}
		last = name
	}
	o.Close()
	w.Fail(net.ErrClosed)
	wg.Wait()
}

// With many senders and a receiver that pauses, every accepted frame arrives whole, and each flow
// in its order. Under the race detector this also tests the locking.
func TestOutboxDirectManySenders(t *testing.T) {
	near, far := relaytest.TCPPair(t)
	base := newSock(near)
	w := NewFrameConn(base, base, 10*time.Second)
	var wg sync.WaitGroup
	var l atomicCounter
	o := NewOutbox(&wg, &testLimits, new(Budget), &l)
	w.Start(o.StartDrain)
	o.Attach(w)
	const senders, each = 8, 300
	var sending sync.WaitGroup
	for i := range senders {
		sending.Go(func() {
			for n := range each {
				o.Send(testFlow(i, ClassData), testFrames(i, n*4, 4, 700), 50*time.Millisecond)
			}
		})
	}
	readc := make(chan [senders]int)
	go func() {
		var next, got [senders]int
		frame := make([]byte, 700)
		for {
			if _, err := io.ReadFull(far, frame); err != nil {
				readc <- got
				return
			}
			i := int(frame[HeaderSize])
			var flow, n int
			if _, err := fmt.Sscanf(string(frame[SendOverhead:SendOverhead+20]), "%d/%d.", &flow, &n); err != nil ||
				flow != i || n < next[i] {
				t.Errorf("flow %d: got %q, want %d or later", i, frame[SendOverhead:SendOverhead+20], next[i])
			}
			next[i] = n + 1
			got[i]++
		}
	}()
	sending.Wait()
	o.WaitIdle(t.Context())
	o.Close()
	near.CloseWrite()
	got, total := <-readc, 0
	for _, n := range got {
		total += n
	}
	if want := senders*each*4 - int(l.drops[dropQueueTail].Load()+l.drops[dropQueueHead].Load()); total != want {
		t.Errorf("%d frames arrived, %d were accepted", total, want)
	}
	w.Fail(net.ErrClosed)
	wg.Wait()
}
