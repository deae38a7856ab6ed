// Package neterr shortens errors of package net: it removes an address that the text around them
// already names.
package neterr

import (
	"errors"
	"net"
)

// Cause returns the error of a dial to addr (host:port) for a text that names addr itself. If err
// is a *net.OpError that names no address or the same one, Cause returns the error inside it.
// Otherwise it returns err, because the address that a host name was resolved to is new to the
// reader.
func Cause(addr string, err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || error(op) != err || op.Op != "dial" || op.Err == nil || op.Addr != nil && op.Addr.String() != addr {
		return err
	}
	return op.Err
}
