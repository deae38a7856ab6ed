//go:build !linux

package node

import (
	"context"
	"errors"
)

// networkEvents is not available on this system.
func networkEvents(context.Context, starter) (<-chan struct{}, error) {
	return nil, errors.ErrUnsupported
}
