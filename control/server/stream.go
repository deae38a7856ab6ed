package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"ginnel/control"
	"ginnel/key"
)

const (
	// Proxies between client and server close idle connections: HAProxy after 50 s and nginx after
	// 60 s.
	keepAliveEvery  = 20 * time.Second
	keepAliveSpread = 4 * time.Second
	// frameTimeout bounds how long the client may take to receive a frame, keepalives included. A
	// slower client loses its stream and starts again with a full map.
	frameTimeout = keepAliveEvery + keepAliveSpread + 15*time.Second
	// maxBehind is how many steps a stream may lag. Beyond that, a full map is smaller than the
	// steps.
	maxBehind = 256
)

var (
	errSuperseded = errors.New("the stream was replaced by another or its node was deleted")
	errBehind     = errors.New("the client is too far behind")
)

// stream is the open map request of a node. A node has at most one; a new one replaces it.
type stream struct {
	id      int64
	endc    chan struct{} // closed by the loop when the stream has ended or must end
	process process
	earlier []process // processes that had the stream before, latest first
	began   time.Time
	machine key.MachinePublic
	// answers receives the number of the latest probe that the client has answered; see prober.
	answers chan int
	// heard is when a router that stopped answering probes last answered one. It is zero for all
	// others.
	heard time.Time
}

func newStream(machine key.MachinePublic, p process) *stream {
	return &stream{endc: make(chan struct{}), machine: machine, answers: make(chan int, 1), process: p}
}

// beginStream makes s the stream of its node and the node online.
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

// endStream ends a stream. It does not change the node if another stream has replaced s.
func (c *core) endStream(t *tx, s *stream) {
	if c.streams[s.id] != s {
		return
	}
	unset(t, c.streams, s.id)
	t.after = append(t.after, func() { close(s.endc) }) // awaitTakeover may be waiting for it
	if t.nodes[s.id] == nil {
		return // deleted by an earlier command of the batch
	}
	n := cloneNode(t.nodes[s.id])
	if n.polled = t.mono; !s.heard.IsZero() {
		n.polled = s.heard
	}
	t.setNode(n)
}

// serveStream writes the stream of a node until the client, another stream or the server ends it.
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
	frame = nil // lets a large frame be freed
	return c.writeSteps(ctx, s, cur, client, compress, out)
}

// firstFrame returns the full map and the step that it belongs to. The number of concurrent
// encodings is limited, because a full map takes many times its compressed size and a whole network
// may reconnect at once.
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

// awaitNode returns the first step, from the latest on, whose snapshot contains the node.
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

// writeSteps writes a frame for each step that concerns the node, and keepalives in between. It
// also sends probes to a router, and ends if the router stops answering them.
func (c *core) writeSteps(
	ctx context.Context, s *stream, cur *step, client *clientState, compress string, out *frameWriter,
) error {
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

// writeLastSteps writes the steps that were published before the stream was ended, so that the
// client learns why it ends.
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

// frameKind is the purpose of a frame, for the metrics.
type frameKind int

const (
	firstFrame frameKind = iota
	deltaFrame
	aliveFrame
	probeFrame
	numFrameKinds
)

// frameWriter writes frames to a response and flushes each.
type frameWriter struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	metrics *metrics
}

// writeStep writes the frame of a step and returns its length. The length is 0 if the step does not
// concern the node.
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
		return fmt.Errorf("setting the write deadline: %w", err)
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
