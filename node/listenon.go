package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"ginnel/internal/sys"
)

// maxSocketPath is the longest path of a unix socket on all systems: the smallest sockaddr_un has
// 104 bytes for it, with a zero at the end.
const maxSocketPath = 103

// listenOn opens a "tcp" or "unix" listener on this machine. The socket file of a process that has
// ended is replaced.
func listenOn(a net.Addr) (net.Listener, error) {
	if a.Network() == "unix" && len(a.String()) > maxSocketPath {
		return nil, fmt.Errorf("%s: the path of a socket has at most %d bytes, not %d", a, maxSocketPath, len(a.String()))
	}
	if a.Network() == "tcp" {
		return sys.ListenTCP(a.String())
	}
	ln, err := net.Listen(a.Network(), a.String())
	if errors.Is(err, syscall.EADDRINUSE) && isDeadSocket(a.String()) {
		if err := os.Remove(a.String()); err != nil {
			return nil, err
		}
		ln, err = net.Listen("unix", a.String())
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(a.String(), 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// isDeadSocket reports whether path is a unix socket without a listener.
func isDeadSocket(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// addrText writes a listener's address as a user would.
func addrText(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return a.String()
}
