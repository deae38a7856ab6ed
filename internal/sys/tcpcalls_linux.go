//go:build linux && !ginnel_stdnet

package sys

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Raw calls that open and end TCP sockets. None blocks, because the sockets are non-blocking.

// tcpSocket makes a non-blocking TCP socket of the family of a.
func tcpSocket(a netip.Addr) (fd int, err error) {
	domain := uintptr(unix.AF_INET6)
	if a.Is4() {
		domain = unix.AF_INET
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC,
		unix.IPPROTO_TCP)
	return result(n, errno)
}

// accept takes a connection from the backlog as a non-blocking socket.
func accept(listener uintptr) (fd int, from netip.AddrPort, err error) {
	for {
		var sa unix.RawSockaddrAny
		size := uint32(unix.SizeofSockaddrAny)
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&sa)),
			uintptr(unsafe.Pointer(&size)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		fd, err = result(n, errno)
		return fd, addrPort(&sa), err
	}
}

// connect starts a connect. It returns nil when connected at once, EINPROGRESS or EINTR when the
// attempt continues in the background. IPv6 zones are not supported.
func connect(fd uintptr, to netip.AddrPort) error {
	if to.Addr().Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: bigEndian(to.Port()), Addr: to.Addr().As4()}
		_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
		return asError(errno)
	}
	sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: bigEndian(to.Port()), Addr: to.Addr().As16()}
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet6)
	return asError(errno)
}

// localAddr returns the address that a socket is bound to.
func localAddr(fd uintptr) (netip.AddrPort, error) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)))
	return addrPort(&sa), asError(errno)
}

// shutdown ends our stream (unix.SHUT_WR) or both streams (unix.SHUT_RDWR).
func shutdown(fd uintptr, how int) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, fd, uintptr(how), 0)
	return asError(errno)
}

// setOption sets an integer option of a socket.
func setOption(fd uintptr, level, name, value int) error {
	v := int32(value)
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v)),
		unsafe.Sizeof(v), 0)
	return asError(errno)
}

// setLinger sets SO_LINGER.
func setLinger(fd uintptr, l unix.Linger) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	return asError(errno)
}

// socketError takes the pending error of a socket (SO_ERROR), nil if there is none.
func socketError(fd uintptr) error {
	var v int32
	size := uint32(unsafe.Sizeof(v))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&v)),
		uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 {
		errno = syscall.Errno(v)
	}
	return asError(errno)
}

func asError(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// addrPort converts an address of the kernel. IPv4-mapped addresses become IPv4; the zone is the
// number of the interface.
func addrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), bigEndian(a.Port))
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		ip := netip.AddrFrom16(a.Addr).Unmap()
		if a.Scope_id != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(a.Scope_id), 10))
		}
		return netip.AddrPortFrom(ip, bigEndian(a.Port))
	}
	return netip.AddrPort{}
}

// bigEndian converts a port between host and network byte order.
func bigEndian(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}
