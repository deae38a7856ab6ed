package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ParseTarget checks host:port, or a host alone, and returns it in canonical form. An IPv6 address
// alone may have brackets.
func ParseTarget(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil { // no port, then
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), ""
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a port", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, ":/[]@ \t\r\n") {
		return "", fmt.Errorf("%q is neither HOST:PORT nor HOST", s)
	}
	if host == "" {
		return "", errors.New("the host is empty")
	}
	if port == "" {
		return host, nil
	}
	return net.JoinHostPort(host, port), nil
}

// HostPort turns the text of a proxy's address into network and address.
func HostPort(text string) (network, addr string) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return "unix", path
	}
	return "tcp", text
}

// ListenAddr reads host:port, :port or port.
func ListenAddr(s string) (string, error) {
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		return ":" + s, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("%q is not an address to listen on: [HOST]:PORT or PORT is", s)
	}
	return s, nil
}

// IsHostName reports whether s has the characters and the length of a DNS name. It accepts the
// asterisk of a wildcard certificate.
func IsHostName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_*", r))
	})
}

// PortNumber returns the port of host:port, or 0 if there is none.
func PortNumber(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(port)
	return n
}

// JoinAddrs writes addresses on one line.
func JoinAddrs(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}
