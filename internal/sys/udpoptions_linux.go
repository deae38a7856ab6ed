//go:build linux && !ginnel_stdnet

package sys

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

func allowFragments(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		// A socket refuses the option of the other family.
		unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
		unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	})
}

func shareUDPPort(first *net.UDPConn, network string, n int, kind byte) (more []*net.UDPConn, err error) {
	raw, err := first.SyscallConn()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, c := range more {
				c.Close()
			}
			setReusePort(raw, 0)
			more = nil
		}
	}()
	// A socket can join only if all sockets on the port have the option. First was bound without it,
	// so binding to a port that is in use failed as usual.
	if err := setReusePort(raw, 1); err != nil {
		return nil, fmt.Errorf("sharing the UDP port: %w", err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw RawConn) error { return setReusePort(raw, 1) }}
	for range n - 1 {
		pc, err := lc.ListenPacket(context.Background(), network, first.LocalAddr().String())
		if err != nil {
			return more, fmt.Errorf("sharing the UDP port: %w", err)
		}
		more = append(more, pc.(*net.UDPConn))
	}
	if err := attachFilter(raw, socketChoice(n, kind)); err != nil {
		return more, fmt.Errorf("spreading datagrams over UDP sockets: %w", err)
	}
	return more, nil
}

func setReusePort(raw RawConn, value int) (err error) {
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
	})
	return errors.Join(control, err)
}

// attachFilter has a BPF program choose among the sockets of a port.
func attachFilter(raw RawConn, program []unix.SockFilter) (err error) {
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(control, err)
}

// socketChoice is a classic BPF program that returns the number of the socket, in the order of
// binding. It sees the payload of the datagram, or of the first one if the kernel has joined
// several. A load beyond the end makes it return 0.
func socketChoice(n int, kind byte) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(kind) << 24, Jf: 3}, // loads are big-endian
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: uint32(n - 1)},
		{Code: unix.BPF_RET | unix.BPF_A},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}
