package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// roundTrips sends a message, waits for it to come back, and sends the next, on one connection.
func roundTrips(ctx context.Context, s *Spec) (Figures, error) {
	c, err := dialEcho(ctx, s)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer bind(ctx, c)()
	for start := time.Now(); time.Since(start) < s.warmup(); {
		if err := trip(c, 0); err != nil {
			return nil, err
		}
	}
	before, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for start := time.Now(); time.Since(start) < s.Duration; {
		sent := time.Now()
		if err := trip(c, uint64(len(took))); err != nil {
			return nil, err
		}
		took = append(took, time.Since(sent))
	}
	after, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	f := Figures{"p50_us": microseconds(Percentile(took, 50)), "p99_us": microseconds(Percentile(took, 99))}
	if len(s.PIDs) > 0 {
		f["cpu_us"] = microseconds(after.cpu-before.cpu) / float64(len(took))
	}
	return f, nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Percentile returns the smallest value that at least p percent of the values do not exceed. It
// sorts them.
func Percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[max(0, (len(all)*p+99)/100-1)]
}

func dialEcho(ctx context.Context, s *Spec) (net.Conn, error) {
	c, err := s.Proxy.open(ctx, s.Target, wantEcho, 0)
	if err == nil {
		c.SetDeadline(time.Now().Add(handshakeLimit + s.warmup() + s.Duration))
	}
	return c, err
}

// trip makes one round trip. Messages differ, so that a late answer is not taken for the next one.
func trip(c net.Conn, number uint64) error {
	if _, err := c.Write(piece(number, messageSize)); err != nil {
		return err
	}
	return readMessage(c, messageSize, number)
}

// tally counts requests.
type tally struct {
	done, failed atomic.Int64
	err          atomic.Pointer[error] // the last
}

// requests runs s.Conns loops of connect, request, answer and close. The client closes first, and
// the service waits for that, because not all proxies forward a close by the service. Failed
// requests are only counted, because a proxy that refuses some is slow, not broken.
func requests(ctx context.Context, s *Spec) (Figures, error) {
	repeating, stop := context.WithCancel(ctx)
	defer stop()
	var t tally
	var wg sync.WaitGroup
	for range s.Conns {
		wg.Go(func() { t.repeat(repeating, s) })
	}
	err := wait(ctx, s.warmup())
	before, cerr := costsOf(s.PIDs)
	start, counted := time.Now(), t.done.Load()
	if err == nil {
		err = cerr
	}
	if err == nil {
		err = wait(ctx, s.Duration)
	}
	n, took := t.done.Load()-counted, time.Since(start)
	for n == 0 && err == nil && t.failed.Load() == 0 && took < handshakeLimit { // a slow program is not a failed one
		err = wait(ctx, 10*time.Millisecond)
		n, took = t.done.Load()-counted, time.Since(start)
	}
	after, cerr := costsOf(s.PIDs)
	if err == nil {
		err = cerr
	}
	stop()
	wg.Wait()
	if e := t.err.Load(); e != nil && (err != nil || n == 0 || errors.Is(*e, errCorrupt)) {
		return nil, fmt.Errorf("%d requests failed, %d were answered: %w", t.failed.Load(), t.done.Load(), *e)
	}
	if err == nil && n == 0 {
		err = errors.New("no request was answered")
	}
	f := Figures{"per_s": float64(n) / took.Seconds(), "failed": float64(t.failed.Load())}
	if len(s.PIDs) > 0 && n > 0 {
		f["cpu_us"] = microseconds(after.cpu-before.cpu) / float64(n)
	}
	return f, err
}

func (t *tally) repeat(ctx context.Context, s *Spec) {
	for n := uint64(0); ctx.Err() == nil; n++ {
		err := ask(ctx, s.Proxy, s.Target, n)
		switch {
		case err == nil:
			t.done.Add(1)
		case ctx.Err() == nil:
			t.failed.Add(1)
			t.err.Store(&err)
		}
	}
}

// ask makes one request.
func ask(ctx context.Context, p Proxy, target netip.AddrPort, number uint64) error {
	c, err := p.dial(ctx, target)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(handshakeLimit))
	defer bind(ctx, c)()
	if _, err := c.Write(append(request(wantAnswer, p.Congestion, 0), piece(number, messageSize)...)); err != nil {
		return err
	}
	return readMessage(c, messageSize, number)
}

// first repeats a request until it is answered. It pauses between attempts, because connections are
// refused at once before the proxy listens.
func first(ctx context.Context, s *Spec) (Figures, error) {
	for {
		begun, cancel := context.WithTimeout(ctx, s.Duration)
		err := ask(begun, s.Proxy, s.Target, 0)
		cancel()
		if err == nil {
			return Figures{"unix_s": float64(time.Now().UnixNano()) / 1e9}, nil
		}
		if werr := wait(ctx, 5*time.Millisecond); werr != nil {
			return nil, errors.Join(werr, err)
		}
	}
}
