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
	// Keep-alive as package net sets it for dialled conns: a peer that vanished is noticed within minutes.
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9

	tcpOptions = 12 // bytes of TCP options in a data segment: timestamps, padded
)

// DialContext connects to addr, an IP address and port, over "tcp" or "udp" and their 4 and 6 forms. Names are the
// caller's to resolve. Errors are *net.OpError around the errno that the operating system would give.
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
	c, err := s.connect(ctx, ap)
	if err != nil {
		return nil, opError(opDial, "tcp", nil, remote, err)
	}
	return c, nil
}

func (s *Stack) connect(ctx context.Context, ap netip.AddrPort) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, dialError(err)
	}
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	wq := new(waiter.Queue)
	ep, terr := s.gv.NewEndpoint(tcp.ProtocolNumber, protocolOf(ap.Addr()), wq)
	if terr != nil {
		return nil, errorOf(terr)
	}
	setConnOptions(ep)
	connected := make(signal, 1)
	entry := waiter.Entry{}
	entry.Init(connected, waiter.WritableEvents|waiter.EventErr|waiter.EventHUp)
	wq.EventRegister(&entry)
	terr = ep.Connect(fullAddress(ap))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			terr = ep.LastError()
		case <-ctx.Done():
			wq.EventUnregister(&entry)
			ep.Abort()
			return nil, dialError(ctx.Err())
		case <-s.dev.closec:
			terr = &tcpip.ErrAborted{}
		}
	}
	wq.EventUnregister(&entry)
	if terr != nil {
		ep.Abort()
		return nil, errorOf(terr)
	}
	return newConn(ep, wq, s.mss(ap.Addr())), nil
}

// dialError makes a context's end look as package net shows it.
func dialError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return syscall.ETIMEDOUT
	}
	return err
}

// mss is the payload of a full segment to or from an address like a.
func (s *Stack) mss(a netip.Addr) int {
	ip := header.IPv4MinimumSize
	if a.Is6() {
		ip = header.IPv6MinimumSize
	}
	return s.dev.mtu - ip - header.TCPMinimumSize - tcpOptions
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
