//go:build !linux

package userstack

import "io"

// readFromSocket reports that there is no short cut on this system.
func (c *Conn) readFromSocket(io.Reader) (int64, error, bool) { return 0, nil, false }

// writeToSocket reports that there is no short cut on this system.
func (c *Conn) writeToSocket(io.Writer) (int64, error, bool) { return 0, nil, false }
