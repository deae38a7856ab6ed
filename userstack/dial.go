package userstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// Keep-alive as package net sets it for dialled conns: a peer that vanished is noticed within
	// minutes.
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9

	// maxConnectAttempts are begun one after the other, connectPatience apart.
	maxConnectAttempts = 4
	connectRetryDelay  = 8 * time.Second

	tcpOptions = 12 // bytes of TCP options in most segments: timestamps, padded
)

// DialContext connects to addr, an IP address and port, over "tcp" or "udp" and their 4 and 6
// forms. Names are the caller's to resolve. Errors are *net.OpError around the errno that the
// operating system would give.
func (s *Stack) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, opError(opDial, network, nil, nil, fmt.Errorf("%q is not an IP address and port", addr))
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	if ap.Port() == 0 {
		return nil, opError(opDial, network, nil, nil, fmt.Errorf("%q: port 0 cannot be dialled", addr))
	}
	switch network {
	case "tcp4", "udp4":
		if !ap.Addr().Is4() {
			return nil, opError(opDial, network, nil, nil, fmt.Errorf("%v is not an IPv4 address", ap.Addr()))
		}
	case "tcp6", "udp6":
		if !ap.Addr().Is6() {
			return nil, opError(opDial, network, nil, nil, fmt.Errorf("%v is not an IPv6 address", ap.Addr()))
		}
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
		return s.dialTCP(ctx, ap)
	case "udp", "udp4", "udp6":
		return s.dialUDP(ap)
	}
	return nil, opError(opDial, network, nil, nil, net.UnknownNetworkError(network))
}

func (s *Stack) dialTCP(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
	remote := net.TCPAddrFromAddrPort(ap)
	c, err := s.grantAndConnect(ctx, ap)
	if s.closed.Load() { // whatever Close made of the attempt, or missed of it
		if err == nil {
			c.Close()
		}
		err = net.ErrClosed
	}
	if err != nil {
		return nil, opError(opDial, "tcp", nil, remote, err)
	}
	return c, nil
}

// grantAndConnect connects once it is the turn of the dial and there is memory for the connection.
func (s *Stack) grantAndConnect(ctx context.Context, ap netip.AddrPort) (*Conn, error) {
	t, err := s.dials.begin(ctx, s.dev.closec, ap)
	if err != nil {
		return nil, err
	}
	defer t.end()
	g, err := s.memory.acquire(ctx, s.dev.closec)
	if err != nil {
		return nil, err
	}
	c, err := s.connect(ctx, t, g)
	if err != nil {
		s.memory.release(g)
	}
	return c, err
}

// connect sends a SYN and waits. gVisor repeats it after 1, 3, 7, 15 and 31 s, too seldom for a
// tunnel that is renewed meanwhile: WireGuard needs 15 s to notice that a peer has restarted. So
// further attempts join the first, which goes on because its answer may only be slow. What is
// decided first holds for all. While the target answers other dials there are no further attempts:
// each would wait there as the first does.
func (s *Stack) connect(ctx context.Context, t *dialTarget, g *share) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, dialError(err)
	}
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	var attempts []*connectAttempt
	defer func() {
		for _, a := range attempts {
			a.abandon()
		}
	}()
	news := make(signal, 1)
	again := time.NewTimer(connectRetryDelay)
	defer again.Stop()
	for due := true; ; {
		if due {
			a, err := s.startConnect(t.addr, g, news)
			if err != nil {
				return nil, err
			}
			attempts, due = append(attempts, a), false
		}
		for _, a := range attempts {
			switch done, err := a.outcome(); {
			case err != nil:
				if errors.Is(err, syscall.ECONNREFUSED) {
					t.noteAnswer()
				}
				return nil, err
			case done:
				t.noteAnswer()
				return newConn(s, g, a.take(), a.wq, s.mss(t.addr.Addr())), nil
			}
		}
		select {
		case <-news:
		case <-again.C:
			due = len(attempts) < maxConnectAttempts && !t.isAnswering()
			again.Reset(connectRetryDelay)
		case <-ctx.Done():
			return nil, dialError(ctx.Err())
		case <-s.dev.closec:
			return nil, errorOf(&tcpip.ErrAborted{})
		}
	}
}

// connectAttempt is a TCP connection in the making.
type connectAttempt struct {
	ep    tcpip.Endpoint // nil once taken
	wq    *waiter.Queue
	entry waiter.Entry
	err   tcpip.Error // of the beginning
}

// startConnect begins one; news tells of its progress.
func (s *Stack) startConnect(ap netip.AddrPort, g *share, news signal) (*connectAttempt, error) {
	a := &connectAttempt{wq: new(waiter.Queue)}
	var err tcpip.Error
	if a.ep, err = s.gv.NewEndpoint(tcp.ProtocolNumber, protocolOf(ap.Addr()), a.wq); err != nil {
		return nil, errorOf(err)
	}
	setConnOptions(a.ep)
	g.apply(a.ep)
	a.entry.Init(news, waiter.WritableEvents|waiter.EventErr|waiter.EventHUp)
	a.wq.EventRegister(&a.entry)
	a.err = a.ep.Connect(fullAddress(ap))
	return a, nil
}

// outcome reports whether the connection stands, or why it never will.
func (a *connectAttempt) outcome() (done bool, err error) {
	if _, started := a.err.(*tcpip.ErrConnectStarted); !started && a.err != nil {
		return false, errorOf(a.err)
	}
	if err := a.ep.LastError(); err != nil {
		return false, errorOf(err)
	}
	switch tcp.EndpointState(a.ep.State()) {
	case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		return false, nil
	}
	return true, nil
}

// take hands the connection over.
func (a *connectAttempt) take() tcpip.Endpoint {
	ep := a.ep
	a.wq.EventUnregister(&a.entry)
	a.ep = nil
	return ep
}

// abandon ends an attempt that was not taken.
func (a *connectAttempt) abandon() {
	if a.ep != nil {
		a.wq.EventUnregister(&a.entry)
		a.ep.Abort()
	}
}

// dialError makes a context's end look as package net shows it.
func dialError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return syscall.ETIMEDOUT
	}
	return err
}

// mss is the payload of gVisor's full segments to an address like a: it leaves room for all options
// that there could be.
func (s *Stack) mss(a netip.Addr) int {
	ip := header.IPv4MinimumSize
	if a.Is6() {
		ip = header.IPv6MinimumSize
	}
	return s.dev.mtu - ip - header.TCPHeaderMaximumSize
}

// setConnOptions gives a TCP endpoint what package net gives its conns: no Nagle, keep-alive.
func setConnOptions(ep tcpip.Endpoint) {
	ep.SocketOptions().SetDelayOption(false)
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
}
