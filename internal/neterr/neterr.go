// Package neterr keeps errors of package net from saying what their readers know already.
package neterr

import (
	"errors"
	"net"
)

// Cause is for the error of a dial to addr, host:port, in a text that names addr anyway. If err is
// a *net.OpError that names the same address, or none, Cause returns what is in it; otherwise it
// returns err, because an address that a name was resolved to is news.
func Cause(addr string, err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || error(op) != err || op.Op != "dial" || op.Err == nil || op.Addr != nil && op.Addr.String() != addr {
		return err
	}
	return op.Err
}
