package transport

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// tune has datagrams cut on their way where they are too large for it.
func tune(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(setOptions)
}

func setOptions(ufd uintptr) {
	fd := int(ufd)
	// Routers may cut datagrams into fragments, as they may those of the kernel's WireGuard: what is
	// too large for a path whose routers do not say so would never arrive. Each option is refused by
	// the sockets of the other family.
	unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
}

// isUnreachable reports whether a send error says that the destination cannot be reached from here
// now.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
