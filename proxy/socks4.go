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

	// Limits of our own: the documents set none.
	maxSOCKS4User = 255
	maxSOCKS4Name = 255

	maxSOCKS4Request = 8 + maxSOCKS4User + 1 + maxSOCKS4Name + 1
)

var (
	errShort  = errors.New("incomplete request")
	errSOCKS4 = errors.New("malformed SOCKS4 request")
)

// socks4Request is a request:
//
//	VN(1)=4 CD(1) DSTPORT(2) DSTIP(4) USERID NUL
//
// In SOCKS4a, if DSTIP is 0.0.0.x with x not 0, the name of the destination and NUL follow.
type socks4Request struct {
	command byte
	port    uint16
	addr    netip.Addr
	user    string
	name    string // SOCKS4a; empty if addr is the destination
}

// parseSOCKS4 parses the request at the start of b and returns its length. It returns errShort if
// the request is not complete yet.
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
	if !nameFollows(req.addr) {
		return req, n, nil
	}
	if req.name, n, err = socks4String(b, n, maxSOCKS4Name); err != nil {
		return socks4Request{}, 0, err
	}
	return req, n, nil
}

// nameFollows reports whether addr is 0.0.0.x with x not 0, the mark of SOCKS4a.
func nameFollows(addr netip.Addr) bool {
	a := addr.As4()
	return a[0] == 0 && a[1] == 0 && a[2] == 0 && a[3] != 0
}

// socks4String returns the NUL-terminated string of at most limit bytes at b[n:], and the index
// after its NUL.
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

// serveSOCKS4 reads a request and connects. SOCKS4 has no passwords, so every request is refused
// where one is needed.
func (c *conn) serveSOCKS4() {
	req, err := c.readSOCKS4()
	if err != nil {
		c.closeFailed(fmt.Errorf("reading a SOCKS4 request: %w", err))
		return
	}
	var r socks4Replies
	if c.needsPassword() {
		c.srv.counters.authRefused.Add(1)
		c.lingerClose(r.refused(errRefusedAuth))
		return
	}
	host := withoutBrackets(req.name)
	if host == "" {
		host = req.addr.String()
	}
	if req.command != socks4Connect || nameFollows(req.addr) && !validHost(req.name) {
		c.lingerClose(r.refused(errSOCKS4))
		return
	}
	c.connect(protoSOCKS4, r, net.JoinHostPort(host, strconv.Itoa(int(req.port))))
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

// socks4Replies makes the replies of SOCKS4: VN(1)=0 CD(1) DSTPORT(2) DSTIP(4). Clients ignore
// DSTPORT and DSTIP.
type socks4Replies struct{}

func (socks4Replies) granted(net.Addr) []byte { return []byte{0, socks4Granted, 0, 0, 0, 0, 0, 0} }
func (socks4Replies) refused(error) []byte    { return []byte{0, socks4Rejected, 0, 0, 0, 0, 0, 0} }
