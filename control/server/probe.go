package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

// A router that loses its power says nothing, and TCP takes a minute or more to notice. If another
// router could stand in, its stream brings it a probe every few seconds: a PingRequest (control
// specification, section 10.2), which it answers by a HEAD request on its channel. A router that
// has answered before and does not any more loses its stream and with it its subnets.

const (
	probeEvery   = 4 * time.Second
	probeTimeout = 8 * time.Second
	// pathProbe is followed by the number of the stream and that of the probe.
	pathProbe = pathMachine + "probe/"
)

var errSilent = errors.New("the router does not answer any more")

// probedStreams finds the stream that an answer is for.
type probedStreams struct {
	mu      sync.Mutex
	last    uint64
	streams map[uint64]*stream
}

func (p *probedStreams) add(s *stream) (number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		p.streams = make(map[uint64]*stream)
	}
	p.last++
	p.streams[p.last] = s
	return p.last
}

func (p *probedStreams) remove(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, number)
}

// answer passes on that a machine has answered the probe with a path. It reports whether that
// machine was asked.
func (p *probedStreams) answer(path string, machine key.MachinePublic) bool {
	number, probe, _ := strings.Cut(strings.TrimPrefix(path, pathProbe), "/")
	n, err := strconv.ParseUint(number, 10, 64)
	asked, err2 := strconv.Atoi(probe)
	if err != nil || err2 != nil {
		return false
	}
	p.mu.Lock()
	s := p.streams[n]
	p.mu.Unlock()
	if s == nil || s.machine != machine {
		return false
	}
	select {
	case s.answers <- asked:
	default: // the answer before has not been taken yet, and is as good
	}
	return true
}

// handleProbe takes the answer to a probe.
func (nc *noiseConn) handleProbe(w http.ResponseWriter, r *http.Request) {
	if !nc.core.probed.answer(r.URL.Path, nc.machine()) {
		http.NotFound(w, r)
	}
}

// prober asks the node of a stream whether it is there, as long as another router could stand in.
// It belongs to the goroutine of the stream.
type prober struct {
	core   *core
	stream *stream
	timer  *time.Timer // stopped while there is nothing to ask
	number uint64      // of the stream; 0 before the first probe
	asked  int         // probes so far
	silent time.Time   // since when the node owes an answer; the zero time: it does not
	heard  time.Time   // the latest answer; not every client answers
}

func newProber(c *core, s *stream) *prober {
	p := &prober{core: c, stream: s, timer: time.NewTimer(probeEvery)}
	p.timer.Stop()
	return p
}

// follow begins or ends the probes as the network at a step wants it.
func (p *prober) update(cur *step) {
	switch wanted := cur.redundant[p.stream.id]; {
	case wanted && p.number == 0:
		p.number = p.core.probed.add(p.stream)
		p.timer.Reset(0)
	case !wanted && p.number != 0:
		p.stop()
	}
}

// next writes a probe, unless the node has owed an answer for too long.
func (p *prober) next(out *frameWriter, compress string) error {
	now := time.Now()
	if !p.silent.IsZero() && !p.heard.IsZero() && now.Sub(p.silent) >= probeTimeout {
		p.stream.heard = p.heard
		return errSilent
	}
	p.asked++
	ask := &control.PingRequest{URL: fmt.Sprint("https://unused", pathProbe, p.number, "/", p.asked), URLIsNoise: true}
	frame, err := control.AppendFrame(nil, &control.MapResponse{KeepAlive: true, PingRequest: ask}, compress)
	if err != nil {
		return fmt.Errorf("encoding a probe: %w", err)
	}
	if p.silent.IsZero() {
		p.silent = now
	}
	p.timer.Reset(probeEvery)
	return out.write(frame, probeFrame)
}

// answered takes the number of a probe that the node has answered. An answer that comes late shows
// that the node was there when it sent it, which is as good.
func (p *prober) answered(number int) {
	if 0 < number && number <= p.asked {
		p.silent, p.heard = time.Time{}, time.Now()
	}
}

func (p *prober) stop() {
	p.timer.Stop()
	if p.number != 0 {
		p.core.probed.remove(p.number)
	}
	p.number, p.silent = 0, time.Time{}
}
