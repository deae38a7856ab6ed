package nonblock

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What opens TCP sockets and ends them, none of which blocks where the socket does not.

// Socket makes a TCP socket that does not block, for IPv4 or IPv6.
func Socket(v4 bool) (fd int, err error) {
	domain := uintptr(unix.AF_INET6)
	if v4 {
		domain = unix.AF_INET
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	return result(n, errno)
}

// Accept takes a connection, whose socket does not block either.
func Accept(listener uintptr) (fd int, from netip.AddrPort, err error) {
	for {
		var sa unix.RawSockaddrAny
		size := uint32(unix.SizeofSockaddrAny)
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		fd, err = result(n, errno)
		return fd, addrPort(&sa), err
	}
}

// Connect begins to connect, and returns EINPROGRESS unless that is done; so it does, as EINTR,
// when a signal interrupts it. Zones are not for it.
func Connect(fd uintptr, to netip.AddrPort) error {
	if to.Addr().Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: bigEndian(to.Port()), Addr: to.Addr().As4()}
		_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
		return asError(errno)
	}
	sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: bigEndian(to.Port()), Addr: to.Addr().As16()}
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet6)
	return asError(errno)
}

// LocalAddr is the address that a socket is bound to.
func LocalAddr(fd uintptr) (netip.AddrPort, error) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	return addrPort(&sa), asError(errno)
}

// Shutdown ends a direction of a connection: unix.SHUT_WR, or unix.SHUT_RDWR for both.
func Shutdown(fd uintptr, how int) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, fd, uintptr(how), 0)
	return asError(errno)
}

// SetOption sets an option of a socket that is a number.
func SetOption(fd uintptr, level, name, value int) error {
	v := int32(value)
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return asError(errno)
}

// SetLinger sets SO_LINGER.
func SetLinger(fd uintptr, l unix.Linger) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	return asError(errno)
}

// Error takes the error that waits in a socket; nil: none.
func Error(fd uintptr) error {
	var v int32
	size := uint32(unsafe.Sizeof(v))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&v)),
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

// addrPort is that of an address as the system has it, an IPv4 address in its own form. Its zone is
// a number.
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

// bigEndian turns a port from this machine's order of bytes into the network's, and back.
func bigEndian(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}
