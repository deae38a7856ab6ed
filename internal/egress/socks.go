package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
)

// This file is the client of SOCKS5 (RFC 1928, RFC 1929). golang.org/x/net/proxy is not used
// because its errors do not distinguish a refusal from a broken connection, and because the
// connection that it returns hides CloseWrite.
const (
	socksVersion = 5
	authVersion  = 1 // of the username/password subnegotiation (RFC 1929)

	methodNone     = 0x00
	methodPassword = 0x02
	methodRefused  = 0xff

	commandConnect = 1

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4
)

// socksReplies are the reply codes (REP) of RFC 1928, section 6.
var socksReplies = map[byte]string{
	1: "general failure",
	2: "connection not allowed by ruleset",
	3: "network unreachable",
	4: "host unreachable",
	5: "connection refused",
	6: "TTL expired",
	7: "command not supported",
	8: "address type not supported",
}

var errNotSOCKS = errors.New("answer is not SOCKS5")

// connectSOCKS5 asks the proxy for a connection. It reads nothing beyond the proxy's answer.
func connectSOCKS5(conn net.Conn, user *url.Userinfo, to target) (net.Conn, error) {
	if err := socksLogin(conn, user); err != nil {
		return nil, fmt.Errorf("logging in: %w", err)
	}
	if err := socksRequest(conn, to); err != nil {
		return nil, fmt.Errorf("requesting connection: %w", err)
	}
	return conn, nil
}

// socksLogin negotiates the authentication method (RFC 1928, section 3) and authenticates.
func socksLogin(conn net.Conn, user *url.Userinfo) error {
	methods := []byte{socksVersion, 1, methodNone}
	if user != nil {
		methods = []byte{socksVersion, 2, methodNone, methodPassword}
	}
	if _, err := conn.Write(methods); err != nil {
		return err
	}
	var answer [2]byte
	if err := readFull(conn, answer[:]); err != nil {
		return err
	}
	switch {
	case answer[0] != socksVersion:
		return errNotSOCKS
	case answer[1] == methodNone:
		return nil
	case answer[1] == methodPassword && user != nil:
		return socksPassword(conn, user)
	case answer[1] == methodRefused && user == nil:
		return fmt.Errorf("%w: it demands a user and password", ErrRefused)
	case answer[1] == methodRefused:
		return fmt.Errorf("%w: it takes no user and password", ErrRefused)
	}
	return errNotSOCKS
}

// socksPassword authenticates by user and password (RFC 1929).
func socksPassword(conn net.Conn, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if len(name) > 255 || len(password) > 255 {
		return errors.New("user or password is longer than 255 bytes")
	}
	b := append([]byte{authVersion, byte(len(name))}, name...)
	b = append(append(b, byte(len(password))), password...)
	if _, err := conn.Write(b); err != nil {
		return err
	}
	var answer [2]byte
	if err := readFull(conn, answer[:]); err != nil {
		return err
	}
	// Only the status is checked, because some servers write a wrong version before it.
	if answer[1] != 0 {
		return fmt.Errorf("%w: user or password is wrong", ErrRefused)
	}
	return nil
}

// socksRequest sends the CONNECT request and reads the reply (RFC 1928, sections 4 and 6).
func socksRequest(conn net.Conn, to target) error {
	b := []byte{socksVersion, commandConnect, 0}
	addr, err := netip.ParseAddr(to.host)
	switch addr = addr.Unmap(); {
	case err != nil:
		b = append(append(b, addressName, byte(len(to.host))), to.host...)
	case addr.Is4():
		b = append(append(b, addressIPv4), addr.AsSlice()...)
	default:
		b = append(append(b, addressIPv6), addr.AsSlice()...)
	}
	b = append(b, byte(to.port>>8), byte(to.port))
	if _, err := conn.Write(b); err != nil {
		return err
	}

	var answer [4]byte
	if err := readFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != socksVersion {
		return errNotSOCKS
	}
	if code := answer[1]; code != 0 {
		reason, ok := socksReplies[code]
		if !ok {
			reason = fmt.Sprintf("code %d", code)
		}
		return fmt.Errorf("%w: %s", ErrRefused, reason)
	}
	return skipBound(conn, answer[3])
}

// skipBound reads and drops the address and port that the proxy connects from (BND.ADDR, BND.PORT).
func skipBound(conn net.Conn, kind byte) error {
	var length int
	switch kind {
	case addressIPv4:
		length = net.IPv4len
	case addressIPv6:
		length = net.IPv6len
	case addressName:
		var b [1]byte
		if err := readFull(conn, b[:]); err != nil {
			return err
		}
		length = int(b[0])
	default:
		return errNotSOCKS
	}
	return readFull(conn, make([]byte, length+2))
}

// readFull is io.ReadFull, except that the end of the stream is always unexpected.
func readFull(conn net.Conn, b []byte) error {
	_, err := io.ReadFull(conn, b)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
