//go:build !linux

package udpbatch

import (
	"net"
	"net/netip"
)

// osSocket is never made.
type osSocket struct{}

func newOSSocket(*net.UDPConn) (*osSocket, error) { return nil, nil }

func (*osSocket) setBuffers(int)       {}
func (*osSocket) receive(*Batch) error { panic("udpbatch: internal error: no batches here") }
func (*osSocket) send([][]byte, netip.AddrPort) (int, error) {
	panic("udpbatch: internal error: no batches here")
}

type osBatch struct{}

func (osBatch) init(*Batch) {}

// isDrop reports whether a send error means that just this datagram is lost.
func isDrop(error) bool { return false }
