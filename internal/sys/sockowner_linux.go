package sys

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Layout of the request and the answer of sock_diag(7) for one socket, after the netlink header:
// struct inet_diag_req_v2 and struct inet_diag_msg.
const (
	diagRequestLen = 56
	diagAnswerLen  = 72

	diagState = 1  // of the answer
	diagUser  = 64 // of the answer
	diagInode = 68 // of the answer

	tcpEstablished = 1
)

func connOwner(client, server netip.AddrPort) (user int, ok bool) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(client, server), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT) // the kernel has answered before sendto(2) returned
	if err != nil {
		return 0, false
	}
	return parseDiag(buf[:n])
}

// diagRequest asks for the one socket whose own address is client. A socket of IPv6 that is
// connected to an IPv4 address is found by the IPv4 addresses.
func diagRequest(client, server netip.AddrPort) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+diagRequestLen)
	native, network := binary.NativeEndian, binary.BigEndian
	native.PutUint32(b[0:], uint32(len(b)))
	native.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	if client.Addr().Is6() {
		r[0] = unix.AF_INET6
	}
	native.PutUint32(r[4:], 1<<tcpEstablished)
	id := r[8:]
	network.PutUint16(id[0:], client.Port())
	network.PutUint16(id[2:], server.Port())
	copy(id[4:20], client.Addr().AsSlice())
	copy(id[20:36], server.Addr().AsSlice())
	native.PutUint64(id[40:], ^uint64(0)) // no cookie: whichever socket it is
	return b
}

// parseDiag accepts the answer only for an established connection that a process still holds: the
// kernel shows user 0 for others.
func parseDiag(b []byte) (user int, ok bool) {
	native := binary.NativeEndian
	if len(b) < unix.SizeofNlMsghdr+diagAnswerLen || native.Uint16(b[4:]) != unix.SOCK_DIAG_BY_FAMILY {
		return 0, false
	}
	m := b[unix.SizeofNlMsghdr:]
	if m[diagState] != tcpEstablished || native.Uint32(m[diagInode:]) == 0 {
		return 0, false
	}
	return int(native.Uint32(m[diagUser:])), true
}
