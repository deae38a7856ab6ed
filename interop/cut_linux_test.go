package interop

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests block traffic by BPF socket filters: the kernel drops a filtered packet silently.
// Unlike proxy sockets in the path, filters leave the real sockets in use, with their batches and
// offloads.

// dropAll is a filter that drops every packet.
var dropAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

// acceptFrom returns a filter that accepts only datagrams from these UDP ports.
func acceptFrom(ports ...uint16) []unix.SockFilter {
	// Load the source port, the first field of the UDP header.
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 0}}
	for i, p := range ports {
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(p),
			Jt: uint8(len(ports) - i)})
	}
	return append(prog,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
}

// filterUDP attaches a filter to the UDP sockets of this process that are bound to port. A nil
// filter detaches it.
func filterUDP(tb testing.TB, port uint16, prog []unix.SockFilter) {
	tb.Helper()
	filterSockets(tb, port, prog, unix.AF_INET, unix.AF_INET6)
}

// cutIPv4 drops all UDP over IPv4 to a member.
func cutIPv4(tb testing.TB, m member) {
	tb.Helper()
	filterSockets(tb, m.udpPort(), dropAll, unix.AF_INET)
}

func filterSockets(tb testing.TB, port uint16, prog []unix.SockFilter, domains ...int) {
	tb.Helper()
	n := 0
	for _, fd := range udpSockets(tb, port) {
		if domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); !slices.Contains(domains, domain) {
			unix.Close(fd)
			continue
		}
		var err error
		if prog == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		} else {
			err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
		}
		unix.Close(fd)
		if err != nil {
			tb.Fatalf("filtering UDP port %d: %v", port, err)
		}
		n++
	}
	if n == 0 {
		tb.Fatalf("no socket is bound to UDP port %d", port)
	}
}

// udpSockets returns duplicates of the descriptors of all UDP sockets bound to port.
func udpSockets(tb testing.TB, port uint16) (fds []int) {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		if slices.Contains(fds, n) {
			continue // a duplicate of ours, with the number of the descriptor that ReadDir used
		}
		fd, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			continue // closed in the meantime
		}
		if typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && typ == unix.SOCK_DGRAM &&
			boundTo(fd) == int(port) {
			fds = append(fds, fd)
			continue
		}
		unix.Close(fd)
	}
	return fds
}

// boundTo returns the port that an IP socket is bound to, or 0.
func boundTo(fd int) int {
	sa, _ := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return sa.Port
	case *unix.SockaddrInet6:
		return sa.Port
	}
	return 0
}

// cutUDP drops all UDP to the members.
func cutUDP(tb testing.TB, members ...member) {
	tb.Helper()
	for _, m := range members {
		filterUDP(tb, m.udpPort(), dropAll)
	}
}

// restoreUDP undoes cutUDP.
func restoreUDP(tb testing.TB, members ...member) {
	tb.Helper()
	for _, m := range members {
		filterUDP(tb, m.udpPort(), nil)
	}
}
