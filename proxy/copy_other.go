//go:build !linux

package proxy

import (
	"io"
	"net"
)

// isSocket returns false, because copyFromSocket exists on Linux only.
func isSocket(io.Closer) bool { return false }

func copyFromSocket(dst, src io.ReadWriteCloser, m *meter) error { return copyBuffered(dst, src, m) }

type readiness struct{}

func readinessOf(net.PacketConn) readiness { return readiness{} }

func (readiness) wait() error { return nil }
