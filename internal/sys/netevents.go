package sys

import "context"

// NetworkEvents signals changes of the host's links, addresses and routes until ctx ends; then the
// channel is closed. It needs no privilege. start runs the goroutine that reads the events. In
// portable builds the error is errors.ErrUnsupported.
func NetworkEvents(ctx context.Context, start func(func())) (<-chan struct{}, error) {
	return networkEvents(ctx, start)
}
