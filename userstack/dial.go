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
	// Keep-alive as package net sets it for dialled conns: a vanished peer is detected within minutes.
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9

	// A dial starts up to maxConnectAttempts connection attempts, connectRetryDelay apart; see
	// connect.
	maxConnectAttempts = 4
	connectRetryDelay  = 8 * time.Second

	tcpOptions = 12 // bytes of TCP options in most segments: a timestamp and two NOPs
)

// DialContext connects to addr, an IP address and port, by network "tcp" or "udp", or their forms
// that end in 4 or 6. It does not resolve names. Errors are *net.OpError around the errno that the
// operating system would return.
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
	if s.closed.Load() { // Close may have ended the attempt with another error, or missed it
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

// grantAndConnect connects after it has got a turn from the dial limiter and a share of the memory.
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

// connect sends a SYN and waits for the answer. gVisor retransmits a SYN after 1, 3, 7, 15 and 31
// s, which is too rarely for a tunnel: WireGuard needs 15 s to notice that a peer has restarted.
// Therefore connect starts further attempts beside the first, which goes on because its answer may
// only be slow. The first attempt with a result decides. While the target answers other dials, no
// further attempts are started: they would wait in its backlog like the first.
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
	changed := make(signal, 1)
	again := time.NewTimer(connectRetryDelay)
	defer again.Stop()
	for due := true; ; {
		if due {
			a, err := s.startConnect(t.addr, g, changed)
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
		case <-changed:
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

// connectAttempt is one endpoint that is connecting.
type connectAttempt struct {
	ep    tcpip.Endpoint // nil after take
	wq    *waiter.Queue
	entry waiter.Entry
	err   tcpip.Error // the result of Connect, usually ErrConnectStarted
}

// startConnect starts an attempt. It signals changed when the state of the endpoint may have
// changed.
func (s *Stack) startConnect(ap netip.AddrPort, g *share, changed signal) (*connectAttempt, error) {
	a := &connectAttempt{wq: new(waiter.Queue)}
	var err tcpip.Error
	if a.ep, err = s.gv.NewEndpoint(tcp.ProtocolNumber, protocolOf(ap.Addr()), a.wq); err != nil {
		return nil, errorOf(err)
	}
	setConnOptions(a.ep)
	g.apply(a.ep)
	a.entry.Init(changed, waiter.WritableEvents|waiter.EventErr|waiter.EventHUp)
	a.wq.EventRegister(&a.entry)
	a.err = a.ep.Connect(fullAddress(ap))
	return a, nil
}

// outcome reports whether the endpoint is connected, or why it cannot connect.
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

// take returns the connected endpoint, which the caller owns from then on.
func (a *connectAttempt) take() tcpip.Endpoint {
	ep := a.ep
	a.wq.EventUnregister(&a.entry)
	a.ep = nil
	return ep
}

// abandon aborts an attempt unless it was taken.
func (a *connectAttempt) abandon() {
	if a.ep != nil {
		a.wq.EventUnregister(&a.entry)
		a.ep.Abort()
	}
}

// dialError translates the error of a context: a deadline becomes ETIMEDOUT, as for package net.
func dialError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return syscall.ETIMEDOUT
	}
	return err
}

// mss is the payload of a full segment that gVisor sends to a, in bytes. gVisor leaves room for the
// longest possible TCP options.
func (s *Stack) mss(a netip.Addr) int {
	ip := header.IPv4MinimumSize
	if a.Is6() {
		ip = header.IPv6MinimumSize
	}
	return s.dev.mtu - ip - header.TCPHeaderMaximumSize
}

// setConnOptions sets what package net sets for its TCP conns: no Nagle algorithm, keep-alive.
func setConnOptions(ep tcpip.Endpoint) {
	ep.SocketOptions().SetDelayOption(false)
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
}
