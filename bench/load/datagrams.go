package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	datagramSize = 1200
	lowestRate   = 500.0 // datagrams a second; a proxy that loses some at this rate fails
	steps        = 5     // of the search between a good rate and twice that rate: about 2 % precision
	attempts     = 3     // trials of a rate before it counts as too high
	nearly       = 0.9   // a trial at this share of the wanted rate is good enough
	maxBurst     = 32    // datagrams sent in a row when the sender is late
)

// association is a SOCKS5 UDP association, or for Direct a plain UDP socket.
type association struct {
	control net.Conn // the association ends with this connection; nil for Direct
	udp     *net.UDPConn
	header  []byte
	in      []byte
}

// associate opens an association whose datagrams all go to target.
func associate(ctx context.Context, p Proxy, target netip.AddrPort) (*association, error) {
	if p.Kind == Direct {
		return dialDatagrams(nil, target, nil)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", p.Addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(handshakeLimit))
	relay, err := askSOCKS5(c, socksAssociate, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("opening a UDP association: %w", err)
	}
	c.SetDeadline(time.Time{})
	if !relay.Addr().IsValid() || relay.Addr().IsUnspecified() {
		relay = netip.AddrPortFrom(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), relay.Port())
	}
	return dialDatagrams(c, relay, appendAddress([]byte{0, 0, 0}, target))
}

func dialDatagrams(control net.Conn, to netip.AddrPort, header []byte) (*association, error) {
	udp, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		if control != nil {
			control.Close()
		}
		return nil, err
	}
	enlargeBuffers(udp)
	return &association{control: control, udp: udp, header: header, in: make([]byte, 64<<10)}, nil
}

func (a *association) close() {
	a.udp.Close()
	if a.control != nil {
		a.control.Close()
	}
}

// send sends one datagram to the target. If this host has no buffer space, the datagram is lost, as
// one on the network.
func (a *association) send(b []byte, kind byte, run, seq uint64, size int) ([]byte, error) {
	b = appendDatagram(append(b[:0], a.header...), kind, run, seq, size)
	_, err := a.udp.Write(b)
	return b, err
}

// openWorking opens an association and checks that an answer comes back on it. Some associations of
// tailscaled receive nothing, so it tries several.
func openWorking(ctx context.Context, s *Spec) (*association, error) {
	var errs []error
	for range attempts {
		a, err := associate(ctx, s.Proxy, s.Target)
		if err != nil {
			return nil, err
		}
		if _, err = a.count(ctx, uint64(time.Now().UnixNano()), handshakeLimit/attempts); err == nil {
			return a, nil
		}
		errs = append(errs, err)
		a.close()
	}
	return nil, errors.Join(errs...)
}

// datagrams searches for the highest rate at which every datagram of a trial arrives.
func datagrams(ctx context.Context, s *Spec) (Figures, error) {
	a, err := openWorking(ctx, s)
	if err != nil {
		return nil, err
	}
	defer a.close()
	best, rate, low, high := 0.0, lowestRate, lowestRate/2, math.Inf(1)
	for step := 0; step < steps; {
		got, err := a.attempt(ctx, rate, s.Duration)
		if err != nil {
			return nil, err
		}
		best = max(best, got)
		if best == 0 {
			return nil, fmt.Errorf("datagrams are lost at %v a second", rate)
		}
		if got < nearly*rate {
			high = rate
		} else {
			low = rate
		}
		if math.IsInf(high, 1) {
			rate *= 2
		} else {
			rate = math.Sqrt(low * high)
			step++
		}
	}
	return Figures{"per_s": best}, nil
}

// attempt returns the highest rate of a few trials without loss, or 0. The rate may be lower than
// the wanted one, because the sender may wait for a processor.
func (a *association) attempt(ctx context.Context, rate float64, d time.Duration) (best float64, err error) {
	for range attempts {
		got, lost, err := a.trial(ctx, rate, d)
		if err != nil {
			return 0, err
		}
		if lost == 0 {
			best = max(best, got)
		}
		if best >= nearly*rate {
			break
		}
	}
	return best, nil
}

// trial sends at a rate for the time d and asks how many datagrams have arrived.
func (a *association) trial(ctx context.Context, rate float64, d time.Duration) (got float64, lost uint64, err error) {
	run := uint64(time.Now().UnixNano()) // later runs have higher numbers
	// This proves that the path works, and starts the run at the service.
	if _, err := a.count(ctx, run, handshakeLimit); err != nil {
		return 0, 0, err
	}
	sent, took, err := a.flood(ctx, run, rate, d)
	if err != nil {
		return 0, 0, err
	}
	var arrived uint64
	for still := 0; arrived < sent && still < 3; still++ { // late datagrams are not lost
		n, err := a.count(ctx, run, handshakeLimit)
		if err != nil {
			return 0, 0, err
		}
		if n == corrupt {
			return 0, 0, errCorrupt
		}
		if n > arrived {
			still = 0
		}
		arrived = n
		if arrived < sent {
			if err := wait(ctx, 20*time.Millisecond); err != nil {
				return 0, 0, err
			}
		}
	}
	if arrived > sent {
		return 0, 0, fmt.Errorf("%d datagrams arrived of %d", arrived, sent)
	}
	return float64(sent) / took.Seconds(), sent - arrived, nil
}

// flood sends at an even rate. Datagrams that are overdue are sent later, at most maxBurst in a
// row.
func (a *association) flood(ctx context.Context, run uint64, rate float64, d time.Duration) (
	sent uint64, took time.Duration, err error,
) {
	var b []byte
	start := time.Now()
	due := start
	gap := time.Duration(float64(time.Second) / rate)
	for took < d && ctx.Err() == nil {
		now := time.Now()
		took = now.Sub(start)
		for n := 0; n < maxBurst && !due.After(now); n++ {
			if b, err = a.send(b, datagramData, run, sent, datagramSize); err != nil {
				return 0, 0, err
			}
			sent++
			due = due.Add(gap)
		}
		if ahead := time.Until(due); ahead > 0 {
			pause(ahead)
		} else if -ahead > maxBurst*gap {
			due = due.Add(-ahead) // do not catch up
		}
	}
	return sent, time.Since(start), ctx.Err()
}

// count asks the service repeatedly, up to a limit, how many datagrams of a run have arrived.
func (a *association) count(ctx context.Context, run uint64, limit time.Duration) (uint64, error) {
	var out []byte
	for begun := time.Now(); time.Since(begun) < limit && ctx.Err() == nil; {
		var err error
		if out, err = a.send(out, datagramAsk, run, 0, datagramHeader); err != nil {
			return 0, err
		}
		a.udp.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := a.answer(run)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return 0, errors.Join(errors.New("no answer to datagrams"), ctx.Err())
}

// answer waits for the service's count and ignores late answers of other runs.
func (a *association) answer(run uint64) (uint64, error) {
	for {
		n, err := a.udp.Read(a.in)
		if err != nil {
			return 0, err
		}
		b := a.in[:n]
		if a.header != nil {
			if b, err = datagramOf(b); err != nil {
				return 0, err
			}
		}
		if kind, of, count, ok := parseDatagram(b); ok && kind == datagramAsk && of == run {
			return count, nil
		}
	}
}
