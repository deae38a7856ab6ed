//go:build !linux || ginnel_stdnet

package sys

import (
	"net"
	"net/netip"
)

// osSocket never exists here: newOSSocket returns nil, so UDPSocket moves one datagram a call.
type osSocket struct{}

func newOSSocket(*net.UDPConn) (*osSocket, error) { return nil, nil }

func (*osSocket) setBuffers(int)       {}
func (*osSocket) receive(*Batch) error { panic("sys: internal error: no batches in this build") }
func (*osSocket) send([][]byte, netip.AddrPort) (Sent, error) {
	panic("sys: internal error: no batches in this build")
}

type osBatch struct{}

func (osBatch) init(*Batch) {}
