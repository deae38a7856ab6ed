package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// SOCKS4 has no RFC. The documents are "SOCKS: A protocol for TCP proxy across firewalls" and, for
// names, "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol", both by Ying-Da Lee.
const (
	socks4Version = 0x04

	socks4Connect = 1

	socks4Granted  = 90
	socks4Rejected = 91

	// Neither document bounds these two.
	maxSOCKS4User = 255
	maxSOCKS4Name = 255

	maxSOCKS4Request = 8 + maxSOCKS4User + 1 + maxSOCKS4Name + 1
)

var (
	errShort  = errors.New("incomplete request")
	errSOCKS4 = errors.New("malformed SOCKS4 request")
)

// socks4Request is what a client asks for:
//
//	VN(1)=4 CD(1) DSTPORT(2) DSTIP(4) USERID NUL
//
// and, if DSTIP is 0.0.0.x with x not 0, the name of the destination and NUL.
type socks4Request struct {
	command byte
	port    uint16
	addr    netip.Addr
	user    string
	name    string // empty unless the client leaves the resolving to us
}

// parseSOCKS4 reads a request from the start of b and returns its length. It returns errShort if b
// is only the beginning of one.
func parseSOCKS4(b []byte) (req socks4Request, n int, err error) {
	if len(b) > 0 && b[0] != socks4Version {
		return req, 0, errSOCKS4
	}
	if len(b) < 8 {
		return req, 0, errShort
	}
	req.command = b[1]
	req.port = binary.BigEndian.Uint16(b[2:])
	req.addr = netip.AddrFrom4([4]byte(b[4:]))
	n = 8
	if req.user, n, err = socks4String(b, n, maxSOCKS4User); err != nil {
		return socks4Request{}, 0, err
	}
	if !namesFollow(req.addr) {
		return req, n, nil
	}
	if req.name, n, err = socks4String(b, n, maxSOCKS4Name); err != nil {
		return socks4Request{}, 0, err
	}
	return req, n, nil
}

// namesFollow reports whether addr is 0.0.0.x with x not 0.
func namesFollow(addr netip.Addr) bool {
	a := addr.As4()
	return a[0] == 0 && a[1] == 0 && a[2] == 0 && a[3] != 0
}

// socks4String reads the string of at most limit bytes and the NUL that start at b[n], and returns
// where it ends.
func socks4String(b []byte, n, limit int) (string, int, error) {
	i := bytes.IndexByte(b[n:], 0)
	switch {
	case i > limit || i < 0 && len(b)-n > limit:
		return "", 0, errSOCKS4
	case i < 0:
		return "", 0, errShort
	}
	return string(b[n : n+i]), n + i + 1, nil
}

// serveSOCKS4 reads a request and connects. There is no password in SOCKS4, so with Auth nothing is
// allowed.
func (c *conn) serveSOCKS4() {
	req, err := c.readSOCKS4()
	if err != nil {
		c.fail(fmt.Errorf("reading a SOCKS4 request: %w", err))
		return
	}
	var a socks4Answers
	if c.needsPassword() {
		c.srv.counters.authRefused.Add(1)
		c.part(a.refused(errRefusedAuth))
		return
	}
	host := withoutBrackets(req.name)
	if host == "" {
		host = req.addr.String()
	}
	if req.command != socks4Connect || namesFollow(req.addr) && !validHost(req.name) {
		c.part(a.refused(errSOCKS4))
		return
	}
	c.connect(protoSOCKS4, a, net.JoinHostPort(host, strconv.Itoa(int(req.port))))
}

func (c *conn) readSOCKS4() (socks4Request, error) {
	b := append(make([]byte, 0, maxSOCKS4Request), c.ahead...)
	for {
		req, n, err := parseSOCKS4(b)
		if err == nil {
			c.ahead = b[n:]
			return req, nil
		}
		if !errors.Is(err, errShort) {
			return req, err
		}
		m, err := c.Conn.Read(b[len(b):cap(b)])
		if err != nil {
			return req, err
		}
		b = b[:len(b)+m]
	}
}

// socks4Answers makes the replies of SOCKS4: VN(1)=0 CD(1) DSTPORT(2) DSTIP(4), of which clients
// ignore the last two.
type socks4Answers struct{}

func (socks4Answers) granted(net.Addr) []byte { return []byte{0, socks4Granted, 0, 0, 0, 0, 0, 0} }
func (socks4Answers) refused(error) []byte    { return []byte{0, socks4Rejected, 0, 0, 0, 0, 0, 0} }
