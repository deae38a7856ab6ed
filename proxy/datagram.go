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

// Addr is the source or destination of a datagram in the network behind the proxy: an IP address,
// or a name that is not resolved yet.
type Addr struct {
	Name string     // empty if IP is valid
	IP   netip.Addr // invalid if Name is set
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

// addrPortOf returns the IP address and port of a. The address is invalid if a is a name or of an
// unknown type.
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

// datagramHeader is the largest size of the header that precedes a datagram (RFC 1928 section 7) if
// the header has an IP address. With a name it can be longer.
//
//	RSV(2) FRAG(1) ATYP(1) DST.ADDR(4 or 16, or 1 and up to 255) DST.PORT(2) DATA
const datagramHeader = 4 + 16 + 2

var (
	errDatagram = errors.New("malformed datagram")
	errFragment = errors.New("fragment of a datagram")
)

// parseDatagram parses the header at the start of b and returns its length; the rest of b is the
// data. The library's parser is not used, because it refuses short names and empty datagrams, and
// allocates.
//
// If dst already has the name in the datagram, the string is kept, so that a series of datagrams to
// one name allocates once.
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
	// The name has a colon, so it may be an IPv6 address with a zone, for which ATYP has no type.
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
