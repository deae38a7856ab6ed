//go:build linux && !ginnel_stdnet

package sys

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func networkEvents(ctx context.Context, start func(func())) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	events := make(chan struct{}, 1)
	start(func() { readEvents(ctx, f, events) })
	return events, nil
}

// readEvents sends a signal for each message. Its content does not matter because the receiver
// reads the whole state anew.
func readEvents(ctx context.Context, f *os.File, events chan<- struct{}) {
	defer close(events)
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	buf := make([]byte, 16<<10)
	for {
		_, err := f.Read(buf)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // ENOBUFS: more events than the buffer holds
			return
		}
		select {
		case events <- struct{}{}:
		default: // a signal is pending already
		}
	}
}
