package configs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// ProxyAuth is the user and password that clients of a proxy must present. It prints without the
// password.
type ProxyAuth struct{ User, Password string }

// Plain returns USER:PASS, which ParseProxyAuth accepts.
func (a ProxyAuth) Plain() string { return a.User + ":" + a.Password }

// ParseProxyAuth parses USER:PASS, or file:PATH of a file that contains it. Neither part may be
// empty, and both must fit into SOCKS5 (RFC 1929: at most 255 bytes each) and HTTP Basic (RFC 7617:
// no control characters). Errors do not quote the value.
func ParseProxyAuth(value string) (ProxyAuth, error) {
	s, err := Secret(value)
	if err != nil {
		return ProxyAuth{}, err
	}
	user, password, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		err = errors.New("colon is missing")
	case user == "" || password == "":
		err = errors.New("user or password is empty")
	case len(user) > 255 || len(password) > 255:
		err = errors.New("user or password is longer than 255 bytes")
	case strings.ContainsFunc(s, unicode.IsControl):
		err = errors.New("user or password holds a control character or a second line")
	default:
		return ProxyAuth{user, password}, nil
	}
	return ProxyAuth{}, fmt.Errorf("(not shown): %w, want USER:PASS or file:PATH", err)
}

// String returns the user without the password.
func (a ProxyAuth) String() string { return strconv.Quote(a.User) + " (password not shown)" }

// Format implements fmt.Formatter. No verb reveals the password.
func (a ProxyAuth) Format(f fmt.State, _ rune) { io.WriteString(f, a.String()) }

// LogValue implements slog.LogValuer. It does not reveal the password.
func (a ProxyAuth) LogValue() slog.Value { return slog.StringValue(a.String()) }

// sizeUnits are the units of ParseSize: powers of two, their short forms in Kubernetes, and powers
// of ten. A bare M is not accepted, because programs disagree whether it is a power of two or of
// ten.
var sizeUnits = map[string]int64{
	"": 1, "B": 1,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// ParseSize parses a number of bytes, such as 32MiB. Zero is an error.
func ParseSize(s string) (int64, error) {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.ParseInt(s[:end], 10, 64)
	unit, known := sizeUnits[s[end:]]
	if err != nil || !known || n == 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%s: is not a size, want a whole number with B, KiB, MiB or GiB, such as 32MiB", quote(s))
	}
	return n * unit, nil
}
