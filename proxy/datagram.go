package proxy

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/things-go/go-socks5/statute"
)

// Addr is the far end of a datagram: an address, or the name of one that is still to be resolved.
type Addr struct {
	Name string     // empty if IP is valid
	IP   netip.Addr // invalid if there is a Name
	Port uint16
}

// Network returns "udp".
func (a Addr) Network() string { return "udp" }

// String returns host:port.
func (a Addr) String() string {
	host := a.Name
	if a.IP.IsValid() {
		host = a.IP.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.Port)))
}

// addrPortOf returns the address in a, or an invalid one if it is of an unknown kind or a name.
func addrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *Addr:
		ap = netip.AddrPortFrom(a.IP, a.Port)
	case Addr:
		ap = netip.AddrPortFrom(a.IP, a.Port)
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// datagramHeader is how much the header of a datagram with an address takes at most:
//
//	RSV(2) FRAG(1) ATYP(1) DST.ADDR(4 or 16, or 1 and up to 255) DST.PORT(2) DATA
//
// See RFC 1928 section 7.
const datagramHeader = 4 + 16 + 2

var (
	errDatagram = errors.New("malformed datagram")
	errFragment = errors.New("fragment of a datagram")
)

// parseDatagram reads the header at the start of b. n is its length; the rest of b is the data. It
// is our own because the library's refuses short names and empty datagrams, and allocates.
//
// dst keeps its Name if it is the one in the datagram, so that a series to one name allocates once.
func parseDatagram(b []byte, dst *Addr) (n int, err error) {
	if len(b) < 5 {
		return 0, errDatagram
	}
	// "An implementation that does not support fragmentation MUST drop any datagram whose FRAG field
	// is other than X'00'."
	if b[2] != 0 {
		return 0, errFragment
	}
	var size int
	switch b[3] {
	case statute.ATYPIPv4:
		n, size = 4, 4
	case statute.ATYPIPv6:
		n, size = 4, 16
	case statute.ATYPDomain:
		n, size = 5, int(b[4])
	default:
		return 0, errDatagram
	}
	if len(b) < n+size+2 {
		return 0, errDatagram
	}
	host := b[n : n+size]
	n += size
	dst.Port = binary.BigEndian.Uint16(b[n:])
	n += 2
	if b[3] != statute.ATYPDomain {
		dst.Name = ""
		ip, _ := netip.AddrFromSlice(host)
		dst.IP = ip.Unmap()
		return n, nil
	}
	dst.IP = netip.Addr{}
	if dst.Name != string(host) {
		dst.Name = string(host)
	}
	if !validHost(dst.Name) {
		return 0, errDatagram
	}
	if !strings.Contains(dst.Name, ":") {
		return n, nil
	}
	// An IPv6 address, perhaps with a zone: DST.ADDR has no room for one otherwise.
	if ip, err := netip.ParseAddr(withoutBrackets(dst.Name)); err == nil {
		dst.Name, dst.IP = "", ip.Unmap()
	}
	return n, nil
}

// appendDatagramHeader appends the header of a datagram that came from src.
func appendDatagramHeader(b []byte, src netip.AddrPort) []byte {
	return appendAddrPort(append(b, 0, 0, 0), src)
}

// appendAddrPort appends ATYP, address and port.
func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	if a.Addr().Is4() {
		ip := a.Addr().As4()
		b = append(append(b, statute.ATYPIPv4), ip[:]...)
	} else {
		ip := a.Addr().As16()
		b = append(append(b, statute.ATYPIPv6), ip[:]...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}
