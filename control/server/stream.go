package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

const (
	// HAProxy closes a connection that is idle for 50 s, and nginx after 60 s.
	keepAliveEvery  = 20 * time.Second
	keepAliveSpread = 4 * time.Second
	// frameTimeout is how long after a frame the next has to be taken, keepalives included. A client
	// that is slower loses its stream, and comes back for a whole map.
	frameTimeout = keepAliveEvery + keepAliveSpread + 15*time.Second
	// maxBehind is how many steps a stream may be behind before a whole map is less than what it has
	// missed.
	maxBehind = 256
)

var (
	errSuperseded = errors.New("another stream of the node has begun, or the node is gone")
	errBehind     = errors.New("the client is too slow")
)

// stream is the open map request of a node. A node has one; the next supersedes it.
type stream struct {
	id      int64
	endc    chan struct{} // closed by the loop when the stream has ended or is to end
	process process
	earlier []process // who had it before, the latest first
	began   time.Time
	// machine is what the node runs on.
	machine key.MachinePublic
	// answers has the number of the latest probe that the node has answered; see prober.
	answers chan int
	// heard is when a router was last heard that answers no more; zero for all others.
	heard time.Time
}

func newStream(machine key.MachinePublic, p process) *stream {
	return &stream{endc: make(chan struct{}), machine: machine, answers: make(chan int, 1), process: p}
}

// begin makes s the stream of its node, which is online from now on.
func (c *core) beginStream(t *tx, s *stream) {
	n := cloneNode(t.nodes[s.id])
	n.online, n.awaited = true, false
	n.polled, s.began = time.Time{}, t.mono
	old := c.streams[s.id]
	if old != nil && s.takeOverFrom(old) {
		c.noteDuplicateKey(t, n, s)
	}
	t.setNode(n)
	set(t, c.streams, s.id, s)
	if old != nil {
		t.after = append(t.after, func() { c.pending.ended = append(c.pending.ended, old) })
	}
}

// end is the end of a stream. If another has taken its place nothing happens to the node.
func (c *core) endStream(t *tx, s *stream) {
	if c.streams[s.id] != s {
		return
	}
	unset(t, c.streams, s.id)
	t.after = append(t.after, func() { close(s.endc) }) // somebody may wait for it
	if t.nodes[s.id] == nil {
		return // deleted just now
	}
	n := cloneNode(t.nodes[s.id])
	if n.polled = t.mono; !s.heard.IsZero() {
		n.polled = s.heard
	}
	t.setNode(n)
}

// poll serves the stream of a node until the client, another stream or the server ends it.
func (c *core) serveStream(ctx context.Context, w http.ResponseWriter, s *stream, compress string) error {
	defer c.change(context.WithoutCancel(ctx), func(t *tx) error { c.endStream(t, s); return nil })
	out := &frameWriter{w: w, rc: http.NewResponseController(w), metrics: c.metrics}
	client := &clientState{id: s.id}
	frame, cur, err := c.firstFrame(ctx, s, client, compress)
	if err != nil {
		return err
	}
	if err := out.write(frame, firstFrame); err != nil {
		return err
	}
	frame = nil // may be large
	return c.writeSteps(ctx, s, cur, client, compress, out)
}

// firstFrame returns the whole map, and the step that it belongs to. Few are made at a time: when a
// whole network comes back at once, each of them takes many times the memory until it is
// compressed.
func (c *core) firstFrame(ctx context.Context, s *stream, client *clientState, compress string) ([]byte, *step, error) {
	select {
	case c.encoders <- struct{}{}:
	case <-s.endc:
		return nil, nil, errSuperseded
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-c.stopc:
		return nil, nil, errClosed
	}
	defer func() { <-c.encoders }()
	cur, err := c.awaitNode(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	frame, err := control.AppendFrame(nil, cur.fullMap(client, c.cfg.BaseDomain, c.cfg.moment().now), compress)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the map: %w", err)
	}
	return frame, cur, nil
}

// await returns the latest step once the node is in it.
func (c *core) awaitNode(ctx context.Context, s *stream) (*step, error) {
	cur := c.latest.Load()
	for cur.node(s.id) == nil {
		select {
		case <-cur.nextc:
			cur = cur.next
		case <-s.endc:
			return nil, errSuperseded
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.stopc:
			return nil, errClosed
		}
	}
	return cur, nil
}

// follow writes a frame for each step that concerns the node, and keepalives in between. It ends if
// the node does not answer the probes that a router gets.
func (c *core) writeSteps(ctx context.Context, s *stream, cur *step, client *clientState, compress string, out *frameWriter) error {
	alive, err := control.KeepAliveFrame(compress)
	if err != nil {
		return err
	}
	timer := time.NewTimer(keepAliveIn())
	defer timer.Stop()
	probe := newProber(c, s)
	defer probe.stop()
	for {
		probe.update(cur)
		select {
		case number := <-s.answers:
			probe.answered(number)
			continue
		case <-probe.timer.C:
			if err := probe.next(out, compress); err != nil {
				return err
			}
			continue
		case <-cur.nextc:
			cur = cur.next
			if c.latest.Load().serial-cur.serial > maxBehind {
				return errBehind
			}
			if n, err := out.writeStep(cur, client, compress); err != nil {
				return err
			} else if n == 0 {
				continue
			}
		case <-timer.C:
			if err := out.write(alive, aliveFrame); err != nil {
				return err
			}
		case <-s.endc:
			return writeLastSteps(cur, client, compress, out)
		case <-ctx.Done():
			return ctx.Err()
		case <-c.stopc:
			return errClosed
		}
		timer.Reset(keepAliveIn())
	}
}

// farewell tells a node whose stream is at its end of a step that it may not have seen: the one
// that is the reason.
func writeLastSteps(cur *step, client *clientState, compress string, out *frameWriter) error {
	for range maxBehind {
		select {
		case <-cur.nextc:
			cur = cur.next
		default:
			return errSuperseded
		}
		if _, err := out.writeStep(cur, client, compress); err != nil {
			return err
		}
	}
	return errSuperseded
}

func keepAliveIn() time.Duration { return keepAliveEvery + rand.N(keepAliveSpread) }

// frameKind says what a frame is for.
type frameKind int

const (
	firstFrame frameKind = iota
	deltaFrame
	aliveFrame
	probeFrame
	numFrameKinds
)

// frameWriter writes frames to a response, each at once.
type frameWriter struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	metrics *metrics
}

// writeStep writes what a step means to a node, and returns how many bytes that were.
func (f *frameWriter) writeStep(cur *step, client *clientState, compress string) (int, error) {
	if cur.node(client.id) == nil {
		return 0, errSuperseded
	}
	frame, err := cur.frame(client, compress)
	if err != nil {
		return 0, fmt.Errorf("encoding a change: %w", err)
	}
	if len(frame) == 0 {
		return 0, nil
	}
	return len(frame), f.write(frame, deltaFrame)
}

func (f *frameWriter) write(frame []byte, kind frameKind) error {
	if err := f.rc.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
		return fmt.Errorf("limiting the time of a frame: %w", err)
	}
	if _, err := f.w.Write(frame); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	if err := f.rc.Flush(); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	f.metrics.frames[kind].Inc()
	f.metrics.frameBytes.Add(float64(len(frame)))
	return nil
}
