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
	"ginnel/key"
)

// TCP takes a minute or more to notice a router that loses its power. Therefore, while another
// router could replace it, a router is sent a probe every few seconds on its stream. A probe is a
// PingRequest (control specification, section 10.2), which the client answers by a HEAD request on
// its Noise connection. A router that has answered before and stops answering loses its stream, and
// thereby its subnets.
const (
	probeEvery   = 4 * time.Second
	probeTimeout = 8 * time.Second
	// pathProbe is followed by the number of the stream, a slash and the number of the probe.
	pathProbe = pathMachine + "probe/"
)

var errSilent = errors.New("the router stopped answering probes")

// probedStreams finds the stream that a probe was sent on.
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

// answer passes the answer to a probe on to its stream. It returns false unless that stream belongs
// to machine.
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
	default: // the previous answer has not been read yet and serves the same purpose
	}
	return true
}

// handleProbe receives the answer to a probe.
func (nc *noiseConn) handleProbe(w http.ResponseWriter, r *http.Request) {
	if !nc.core.probed.answer(r.URL.Path, nc.machine()) {
		http.NotFound(w, r)
	}
}

// prober sends probes to the node of a stream while the node is a redundant router. The goroutine
// of the stream owns it.
type prober struct {
	core   *core
	stream *stream
	timer  *time.Timer // stopped while no probes are sent
	number uint64      // of the stream in probedStreams; 0 while no probes are sent
	asked  int         // number of probes sent
	silent time.Time   // when the oldest unanswered probe was sent; zero if all are answered
	heard  time.Time   // time of the latest answer; some clients never answer
}

func newProber(c *core, s *stream) *prober {
	p := &prober{core: c, stream: s, timer: time.NewTimer(probeEvery)}
	p.timer.Stop()
	return p
}

// update starts or stops the probes as the snapshot of a step requires.
func (p *prober) update(cur *step) {
	switch wanted := cur.redundant[p.stream.id]; {
	case wanted && p.number == 0:
		p.number = p.core.probed.add(p.stream)
		p.timer.Reset(0)
	case !wanted && p.number != 0:
		p.stop()
	}
}

// next sends a probe, or returns errSilent if an answer is overdue.
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

// answered takes the number of a probe that the node has answered. A late answer counts too,
// because the node was alive when it sent it.
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
