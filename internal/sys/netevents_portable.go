//go:build !linux || ginnel_stdnet

package sys

import (
	"context"
	"errors"
)

func networkEvents(context.Context, func(func())) (<-chan struct{}, error) {
	return nil, errors.ErrUnsupported
}
