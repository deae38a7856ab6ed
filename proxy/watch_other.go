//go:build !linux

package proxy

import "errors"

func (c *conn) awaitHangup() hangup { return c.awaitHangupByRead() }

func waitReset(any) error { return errors.ErrUnsupported }

// hasInput cannot be told.
func hasInput(any) bool { return false }
