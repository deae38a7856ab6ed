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
	lowestRate   = 500.0 // a second; a proxy that loses at this rate has none
	steps        = 5     // of the search between a rate that was good and the double of it: to about 2 %
	attempts     = 3     // at a rate, before it counts as too high
	nearly       = 0.9   // of a rate is as good as it
	mostAtOnce   = 32    // sent in a row, when the sender has been away
)

// association is a SOCKS5 UDP ASSOCIATE.
type association struct {
	control net.Conn // it lasts as long as this
	udp     *net.UDPConn
	header  []byte
	in      []byte
}

// associate asks for one, to the target only.
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
		return nil, fmt.Errorf("asking the proxy to pass datagrams: %w", err)
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
	enlarge(udp)
	return &association{control: control, udp: udp, header: header, in: make([]byte, 64<<10)}, nil
}

func (a *association) close() {
	a.udp.Close()
	if a.control != nil {
		a.control.Close()
	}
}

// send sends one datagram to the target. One that this machine has no room for is lost like any
// other.
func (a *association) send(b []byte, kind byte, run, seq uint64, size int) ([]byte, error) {
	b = appendDatagram(append(b[:0], a.header...), kind, run, seq, size)
	_, err := a.udp.Write(b)
	return b, err
}

// working is an association by which an answer has come. One of tailscaled is deaf now and then;
// then another is not.
func working(ctx context.Context, s *Spec) (*association, error) {
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

// datagrams looks for the highest rate at which every datagram of a trial arrives.
func datagrams(ctx context.Context, s *Spec) (Figures, error) {
	a, err := working(ctx, s)
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

// attempt returns the highest rate of a few trials in which nothing was lost, 0 if there was none.
// It may be lower than the one that was wanted: the sender has to wait for a processor too.
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

// trial sends at a rate for a time and asks how many have arrived.
func (a *association) trial(ctx context.Context, rate float64, d time.Duration) (got float64, lost uint64, err error) {
	run := uint64(time.Now().UnixNano())                         // later ones have higher numbers
	if _, err := a.count(ctx, run, handshakeLimit); err != nil { // the way is there, and the service knows the run
		return 0, 0, err
	}
	sent, took, err := a.flood(ctx, run, rate, d)
	if err != nil {
		return 0, 0, err
	}
	var arrived uint64
	for still := 0; arrived < sent && still < 3; still++ { // late ones are not lost
		n, err := a.count(ctx, run, handshakeLimit)
		if err != nil {
			return 0, 0, err
		}
		if n == spoilt {
			return 0, 0, errSpoilt
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

// flood sends at an even rate. What it could not send when it was due it sends later, not all at
// once.
func (a *association) flood(ctx context.Context, run uint64, rate float64, d time.Duration) (sent uint64, took time.Duration, err error) {
	var b []byte
	start := time.Now()
	due := start
	gap := time.Duration(float64(time.Second) / rate)
	for took < d && ctx.Err() == nil {
		now := time.Now()
		took = now.Sub(start)
		for n := 0; n < mostAtOnce && !due.After(now); n++ {
			if b, err = a.send(b, datagramData, run, sent, datagramSize); err != nil {
				return 0, 0, err
			}
			sent++
			due = due.Add(gap)
		}
		if ahead := time.Until(due); ahead > 0 {
			pause(ahead)
		} else if -ahead > mostAtOnce*gap {
			due = due.Add(-ahead) // lost time
		}
	}
	return sent, time.Since(start), ctx.Err()
}

// count asks the service how many datagrams of a run have arrived, again and again up to a limit.
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
	return 0, errors.Join(errors.New("no answer comes to datagrams"), ctx.Err())
}

// answer waits for the service's count. Answers of other runs come late and are left.
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
