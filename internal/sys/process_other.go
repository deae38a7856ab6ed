//go:build !unix

package sys

import (
	"bufio"
	"net"
	"os"
	"syscall"
)

func ownSession() *syscall.SysProcAttr                    { return nil }
func closeOnExec(uintptr)                                 {}
func lock(*os.File) error                                 { return nil }
func inForeground() bool                                  { return true } // a console sends to all its processes
func deathSignal(*os.ProcessState) (syscall.Signal, bool) { return 0, false }

func peek(conn net.Conn) (byte, net.Conn, error) {
	r := bufio.NewReaderSize(conn, 16)
	first, err := r.Peek(1)
	if err != nil {
		return 0, nil, err
	}
	return first[0], &peekedConn{conn, r}, nil
}

// peekedConn returns the bytes that were read ahead first.
type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(b []byte) (int, error) { return c.r.Read(b) }
