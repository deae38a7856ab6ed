package transport

import (
	"fmt"
	"net"
	"net/netip"

	"ginnel/internal/sys"
)

// This file spreads peers over several sockets of one port. One goroutine receives from a socket
// and decrypts, so one socket keeps at most one processor busy.
//
// With Config.Lanes > 1 each address family has that many sockets. The kernel delivers a WireGuard
// data message to the socket whose number is the receiver index of the message modulo the number of
// sockets. WireGuard gives all sessions of a peer indexes with the same remainder. So the messages
// of a peer stay in one socket and in order, whatever address they come from, and no packet changes
// goroutines. Everything else (handshakes, disco, STUN) goes to socket 0.

// MaxLanes is the largest Config.Lanes.
const MaxLanes = 8

// group is the sockets of one address family, one for each lane, all on one port. It is empty if
// the family is not available.
type group []*socket

// port returns the local port, 0 if there is none or it is not known.
func (g group) port() uint16 {
	if len(g) == 0 {
		return 0
	}
	return g[0].port()
}

// lane returns the socket that lane i sends with, nil if g is empty.
func (g group) lane(i int) *socket {
	if len(g) == 0 {
		return nil
	}
	return g[i%len(g)]
}

func (g group) close() (errs []error) {
	for _, s := range g {
		errs = append(errs, s.c.Close())
	}
	return errs
}

// openGroup opens the sockets of an address family. It opens one if the kernel cannot spread
// datagrams over several.
func (c *Conn) openGroup(network string, addr netip.AddrPort) (group, error) {
	s, err := c.openSocket(network, addr)
	if err != nil {
		return nil, err
	}
	first, ok := s.c.(*net.UDPConn)
	if !ok || c.cfg.Listen != nil || c.cfg.Lanes <= 1 {
		return group{s}, nil
	}
	more, err := openMore(first, network, c.cfg.Lanes)
	if err != nil {
		c.log.Info("one UDP socket receives for all peers", "network", network, "err", err)
		return group{s}, nil
	}
	return append(group{s}, more...), nil
}

// openMore opens the sockets of lanes 1 and up on the port of first, which is lane 0. The kernel
// gives each lane the data messages whose receiver index is its number modulo lanes.
func openMore(first *net.UDPConn, network string, lanes int) (more []*socket, err error) {
	conns, err := sys.ShareUDPPort(first, network, lanes, wireGuardData)
	if err != nil {
		return nil, err
	}
	for i, c := range conns {
		s, err := newSocket(c)
		if err != nil {
			group(more).close()
			for _, rest := range conns[i:] {
				rest.Close()
			}
			return nil, err
		}
		more = append(more, s)
	}
	return more, nil
}

// checkLanes reports an invalid Config.Lanes. It has to be a power of two because the kernel takes
// the remainder by a mask.
func checkLanes(n int) error {
	if n < 0 || n > MaxLanes || n&(n-1) != 0 {
		return fmt.Errorf("transport: Config.Lanes is %d, want 0, 1, 2, 4 or 8", n)
	}
	return nil
}

// Lanes returns the number of lanes, a power of two. Data messages of one address family whose
// receiver indexes are equal modulo Lanes arrive in one goroutine and in order.
func (c *Conn) Lanes() int { return max(len(c.sock4), len(c.sock6), 1) }
