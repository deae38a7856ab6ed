package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// readyTimeout is how long commands wait for a mesh to be usable if they are not told otherwise.
const readyTimeout = 60 * time.Second

// parseTarget reads host:port or a host, an IPv6 address with or without brackets, and writes it in
// one way.
func parseTarget(s string) (string, error) {
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
