package transport

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// openMore opens the sockets of lanes 1 and up on the port of first, which is lane 0, and has the
// kernel spread datagrams over all of them.
//
// They share the port by SO_REUSEPORT (socket(7)). Linux lets a socket join only if all sockets on
// the port have that option and belong to the same effective user, so another user's process cannot
// take datagrams. First was bound without the option: binding to a port that is in use fails as
// ever, even if another node of the same user has it.
func openMore(first *net.UDPConn, network string, lanes int) (more []*socket, err error) {
	raw, err := first.SyscallConn()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			group(more).close()
			setReusePort(raw, 0)
			more = nil
		}
	}()
	if err := setReusePort(raw, 1); err != nil {
		return nil, fmt.Errorf("sharing the UDP port: %w", err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return setReusePort(raw, 1) }}
	for range lanes - 1 {
		pc, err := lc.ListenPacket(context.Background(), network, first.LocalAddr().String())
		if err != nil {
			return more, fmt.Errorf("sharing the UDP port: %w", err)
		}
		s, err := newSocket(pc.(*net.UDPConn))
		if err != nil {
			pc.Close()
			return more, err
		}
		more = append(more, s)
	}
	if err := spread(raw, lanes); err != nil {
		return more, fmt.Errorf("spreading datagrams over UDP sockets: %w", err)
	}
	return more, nil
}

func setReusePort(raw syscall.RawConn, value int) (err error) {
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
	})
	if control != nil {
		return control
	}
	return err
}

// spread has the kernel choose among the sockets of a port by laneProgram.
func spread(raw syscall.RawConn, lanes int) (err error) {
	program := laneProgram(lanes)
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if control != nil {
		return control
	}
	return err
}

// laneProgram is a classic BPF program that returns the number of the socket, in the order of
// binding. It sees the payload of the datagram or, if the kernel has joined several, of the first
// one. A load beyond the end makes it return 0.
func laneProgram(lanes int) []unix.SockFilter {
	const data = wireGuardData << 24 // the type, little endian, as the big endian load sees it
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: data, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 4}, // the low byte of the receiver index
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: uint32(lanes - 1)},
		{Code: unix.BPF_RET | unix.BPF_A},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}
