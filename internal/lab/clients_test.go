//go:build lab

package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/proxy"
)

// viaSOCKS connects from the namespace through a SOCKS5 proxy. Names are passed on unresolved.
func (n *netns) viaSOCKS(proxyAddr, target string) (net.Conn, error) {
	d, err := proxy.SOCKS5("tcp", proxyAddr, nil, n)
	if err != nil {
		return nil, err
	}
	return d.Dial("tcp", target)
}

// viaConnect connects from the namespace through an HTTP proxy, by CONNECT.
func (n *netns) viaConnect(proxyAddr, target string) (net.Conn, error) {
	c, err := n.dial("tcp", proxyAddr)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	r := bufio.NewReader(oneByte{c}) // buffers nothing beyond the response header
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		c.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		c.Close()
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	return c, nil
}

// oneByte reads one byte at a time, so that a buffered reader on it takes no more than it needs.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(b []byte) (int, error) { return o.r.Read(b[:min(len(b), 1)]) }

// association is the client's side of a SOCKS5 UDP association (RFC 1928, section 7).
type association struct {
	control net.Conn
	local   *net.UDPConn
	relay   netip.AddrPort
}

// associate opens a UDP association with a proxy on loopback.
func (n *netns) associate(proxyAddr string) (*association, error) {
	c, err := n.dial("tcp", proxyAddr)
	if err != nil {
		return nil, err
	}
	n.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(dialTimeout))
	// Offer the method "no authentication" only; then UDP ASSOCIATE from an unspecified address.
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return nil, err
	}
	var method [2]byte
	if _, err := io.ReadFull(c, method[:]); err != nil || method != [2]byte{5, 0} {
		return nil, fmt.Errorf("proxy chose method % x: %v", method, err)
	}
	if _, err := c.Write([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return nil, err
	}
	var reply [10]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil || reply[1] != 0 || reply[3] != 1 {
		return nil, fmt.Errorf("proxy answered % x: %v", reply, err)
	}
	relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[4:8])), binary.BigEndian.Uint16(reply[8:]))
	return &association{control: c, local: n.listenUDP("127.0.0.1:0"), relay: relay}, nil
}

// send sends one datagram to a host, which is an address or a name.
func (a *association) send(host string, port uint16, payload []byte) error {
	b := []byte{0, 0, 0}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		b = append(append(b, 3, byte(len(host))), host...)
	case ip.Is4():
		b = append(append(b, 1), ip.AsSlice()...)
	default:
		b = append(append(b, 4), ip.AsSlice()...)
	}
	b = append(binary.BigEndian.AppendUint16(b, port), payload...)
	_, err = a.local.WriteToUDPAddrPort(b, a.relay)
	return err
}

// receive waits for one datagram.
func (a *association) receive(limit time.Duration) (from netip.AddrPort, payload []byte, err error) {
	buf := make([]byte, 1<<16)
	a.local.SetReadDeadline(time.Now().Add(limit))
	n, err := a.local.Read(buf)
	if err != nil {
		return from, nil, err
	}
	size := map[byte]int{1: 4, 4: 16}[buf[3]]
	if n < 4+size+2 || size == 0 {
		return from, nil, errors.New("datagram without a header")
	}
	ip, _ := netip.AddrFromSlice(buf[4 : 4+size])
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(buf[4+size:])), buf[4+size+2 : n], nil
}
