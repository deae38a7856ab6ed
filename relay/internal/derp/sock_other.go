//go:build !unix

package derp

import (
	"io"
	"net"
	"time"
)

// sock does not exist here: every connection is written to by the goroutine that drains its outbox.
type sock struct{ net.Conn }

func newSock(conn net.Conn) net.Conn { return conn }

func (s *sock) start(func())                                 {}
func (s *sock) pending() bool                                { return false }
func (s *sock) holdUnsent(int)                               {}
func (s *sock) pace(int)                                     {}
func (s *sock) await()                                       {}
func (s *sock) readMore(io.Reader, []byte) (n int, dry bool) { return 0, false }
func (s *sock) flush(time.Duration) error                    { return nil }
