package server

import (
	"strconv"
	"strings"
)

const (
	maxLabel     = 63
	defaultLabel = "node"
	maxName      = 255 // of a complete domain name
)

// hostLabel turns a host name into a DNS label (control specification, section 7.3). The result is
// empty if no character is usable.
func hostLabel(hostname string) string {
	for _, suffix := range []string{".local", ".localdomain", ".lan"} {
		if cut, ok := strings.CutSuffix(hostname, suffix); ok {
			hostname = cut
			break
		}
	}
	hostname = strings.TrimFunc(hostname[:min(len(hostname), maxLabel)], func(r rune) bool {
		return r >= 0x80 || !isAlphanumeric(byte(r))
	})
	var label strings.Builder
	for _, c := range []byte(hostname) {
		switch {
		case 'A' <= c && c <= 'Z':
			label.WriteByte(c + 'a' - 'A')
		case isAlphanumeric(c), c == '-':
			label.WriteByte(c)
		case c == ' ', c == '.', c == '_', c == '@':
			label.WriteByte('-')
		}
	}
	return label.String()
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// uniqueLabel returns the label of a host name, with a number appended if it is taken.
func uniqueLabel(hostname string, taken func(label string) bool) string {
	base := hostLabel(hostname)
	if base == "" {
		base = defaultLabel
	}
	if !taken(base) {
		return base
	}
	for i := 1; ; i++ {
		suffix := "-" + strconv.Itoa(i)
		label := strings.TrimRight(base[:min(len(base), maxLabel-len(suffix))], "-") + suffix
		if !taken(label) {
			return label
		}
	}
}

// validLabel reports whether a name chosen by an administrator is a label without any conversion.
func validLabel(label string) bool { return label != "" && hostLabel(label) == label }
