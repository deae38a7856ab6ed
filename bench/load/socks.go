package load

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// socksCommand is the command of a request (RFC 1928, section 4).
type socksCommand byte

const (
	socksConnect   socksCommand = 1
	socksAssociate socksCommand = 3
)

const (
	socksVersion = 5
	addressIPv4  = 1
	addressName  = 3
	addressIPv6  = 4
)

// socksError is a reply code other than success (RFC 1928, section 6).
type socksError byte

func (e socksError) Error() string { return fmt.Sprintf("proxy refused with code %d", byte(e)) }

// askSOCKS5 makes a request without authentication and returns the address in the reply.
func askSOCKS5(c io.ReadWriter, cmd socksCommand, target netip.AddrPort) (netip.AddrPort, error) {
	if _, err := c.Write([]byte{socksVersion, 1, 0}); err != nil {
		return netip.AddrPort{}, err
	}
	var method [2]byte
	if _, err := io.ReadFull(c, method[:]); err != nil {
		return netip.AddrPort{}, err
	}
	if method != [2]byte{socksVersion, 0} {
		return netip.AddrPort{}, fmt.Errorf("proxy chose authentication method %v, want none", method)
	}
	if _, err := c.Write(appendAddress([]byte{socksVersion, byte(cmd), 0}, target)); err != nil {
		return netip.AddrPort{}, err
	}
	return readReply(c)
}

// readReply reads the reply to a request and no byte beyond it.
func readReply(c io.Reader) (netip.AddrPort, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return netip.AddrPort{}, err
	}
	if head[0] != socksVersion {
		return netip.AddrPort{}, fmt.Errorf("proxy answered in version %d", head[0])
	}
	if head[1] != 0 {
		return netip.AddrPort{}, socksError(head[1])
	}
	b := make([]byte, 16+2)
	switch head[3] {
	case addressIPv4:
		b = b[:4+2]
	case addressIPv6:
	case addressName:
		return readNamed(c)
	default:
		return netip.AddrPort{}, fmt.Errorf("proxy answered with an address of type %d", head[3])
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return netip.AddrPort{}, err
	}
	addr, _ := netip.AddrFromSlice(b[:len(b)-2])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[len(b)-2:])), nil
}

// readNamed reads an address of the type domain name. If the name is not a literal IP address, the
// result has no address.
func readNamed(c io.Reader) (netip.AddrPort, error) {
	var size [1]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return netip.AddrPort{}, err
	}
	b := make([]byte, int(size[0])+2)
	if _, err := io.ReadFull(c, b); err != nil {
		return netip.AddrPort{}, err
	}
	addr, _ := netip.ParseAddr(string(b[:size[0]]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[size[0]:])), nil
}

func appendAddress(b []byte, a netip.AddrPort) []byte {
	kind := byte(addressIPv4)
	if a.Addr().Is6() {
		kind = addressIPv6
	}
	b = append(append(b, kind), a.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// datagramOf removes the header of a datagram from the proxy (RFC 1928, section 7).
func datagramOf(b []byte) ([]byte, error) {
	if len(b) < 4 || b[0]|b[1]|b[2] != 0 {
		return nil, fmt.Errorf("datagram from the proxy without a header: % x", b[:min(len(b), 4)])
	}
	n := 4 + 2
	switch b[3] {
	case addressIPv4:
		n += 4
	case addressIPv6:
		n += 16
	case addressName:
		n++
		if len(b) > 4 {
			n += int(b[4])
		}
	default:
		return nil, fmt.Errorf("datagram from the proxy with an address of type %d", b[3])
	}
	if len(b) < n {
		return nil, fmt.Errorf("datagram from the proxy is truncated in its header")
	}
	return b[n:], nil
}
