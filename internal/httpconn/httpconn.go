// Package httpconn lets an HTTP client speak on a connection that its caller has already opened.
package httpconn

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
)

var errSecondDial = errors.New("HTTP client wants a second connection")

// DialOnce returns a dial function for an [http.Transport]. Its first call returns conn; every
// later call fails, because the transport must not open connections of its own.
func DialOnce(conn net.Conn) func(ctx context.Context, network, addr string) (net.Conn, error) {
	var dialled atomic.Bool
	return func(context.Context, string, string) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errSecondDial
		}
		return conn, nil
	}
}
