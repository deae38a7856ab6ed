package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxName is the longest host name in DNS (RFC 1035, section 2.3.4, without the encoding).
const maxName = 253

// parseHost checks a host, which is a name or an address without brackets. It returns addresses in
// canonical form.
func parseHost(s string) (string, error) {
	if s == "" {
		return "", errors.New("host is empty")
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.String(), nil
	}
	if err := checkName(s); err != nil {
		return "", err
	}
	return s, nil
}

// checkName checks that s can be a host name in DNS. It accepts underscores, which are in use
// although RFC 1123 does not allow them. International names must be in their xn-- form.
func checkName(s string) error {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) {
			return fmt.Errorf("host %s is neither an address nor a name", quote(s))
		}
	}
	if len(s) > maxName {
		return fmt.Errorf("host %s is longer than %d characters", quote(s), maxName)
	}
	// 10.0.0.256 is a mistyped address, not a name in the top level domain 256.
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return fmt.Errorf("host %s is not an IPv4 address", quote(s))
	}
	return nil
}

func notInName(r rune) bool {
	lower := r | 0x20
	return !('a' <= lower && lower <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

// parsePort parses a decimal port of at least lowest, which is 0 where the system may choose one.
func parsePort(s string, lowest uint16) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || uint16(port) < lowest {
		return 0, fmt.Errorf("port %s is not a number from %d to 65535", quote(s), lowest)
	}
	return uint16(port), nil
}

// cutHostPort splits s from the right, as ssh and wg do: into a rest, which may be empty, a host
// and a port, separated by colons. An IPv6 address as the host must be in brackets.
func cutHostPort(s string) (rest, host, port string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", "", errors.New("host or port is missing")
	}
	s, port = s[:i], s[i+1:]
	inner, bracketed := strings.CutSuffix(s, "]")
	if !bracketed {
		i := strings.LastIndexByte(s, ':')
		return s[:max(i, 0)], s[i+1:], port, nil
	}
	i = strings.LastIndexByte(inner, '[')
	if i < 0 {
		return "", "", "", errors.New("bracket is not opened")
	}
	before := inner[:i]
	rest, ok := strings.CutSuffix(before, ":")
	if !ok && before != "" {
		return "", "", "", errors.New("colon is missing before the bracket")
	}
	return rest, inner[i+1:], port, nil
}
