package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxName is the longest name that DNS can ask for.
const maxName = 253

// parseHost checks an address, without brackets, or a name, and returns addresses in their
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

// checkName accepts what a resolver could be asked for. Underscores are in use, though not in the
// letter of RFC 1123; names in other scripts are asked for in their xn-- form.
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

// parsePort reads a decimal port of at least lowest, which is 0 where the system may choose.
func parsePort(s string, lowest uint16) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || uint16(port) < lowest {
		return 0, fmt.Errorf("port %s is not a number from %d to 65535", quote(s), lowest)
	}
	return uint16(port), nil
}

// cutHostPort takes host and port off the end of s, where an IPv6 address stands in brackets, and
// returns what is left before them without its colon. It is how both ssh and wg read: from the
// right.
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
