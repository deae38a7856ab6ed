//go:build !linux

package proxy

import (
	"errors"
	"io"
	"net"
)

func (c *conn) awaitHangup() hangup { return c.awaitHangupByRead() }

func waitReset(io.Closer) error { return errors.ErrUnsupported }

// hasInput returns false, because only Linux is asked.
func hasInput(net.Conn) bool { return false }
