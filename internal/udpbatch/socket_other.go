//go:build !linux

package udpbatch

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// osSocket is never made.
type osSocket struct{}

func newOSSocket(*net.UDPConn) (*osSocket, error) { return nil, nil }

func (*osSocket) setBuffers(int)       {}
func (*osSocket) receive(*Batch) error { panic("udpbatch: internal error: no batches here") }
func (*osSocket) send([][]byte, netip.AddrPort) (Sent, error) {
	panic("udpbatch: internal error: no batches here")
}

type osBatch struct{}

func (osBatch) init(*Batch) {}

// wsaEMSGSIZE is Windows' EMSGSIZE, which package syscall has another number for.
const wsaEMSGSIZE = syscall.Errno(10040)

// isDrop reports whether a send error means that just this datagram is lost: no room on the way
// out, or it is too long.
func isDrop(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, wsaEMSGSIZE)
}
