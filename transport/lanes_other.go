//go:build !linux

package transport

import (
	"errors"
	"net"
)

// openMore reports that the system cannot spread datagrams over several sockets by their content.
func openMore(*net.UDPConn, string, int) ([]*socket, error) { return nil, errors.ErrUnsupported }
