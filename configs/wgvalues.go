package configs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ginnel/key"
)

const (
	minMTU   = 576  // as in package userstack, like maxMTU
	minMTUv6 = 1280 // RFC 8200, section 5
	maxMTU   = 65500
)

// Each read method parses the value of the key in its name and stores it in the configuration, or
// reports why it is invalid.

func (p *wgParser) readPrivateKey(e entry) {
	p.keyAt = e.at
	raw, err := decodeKey(e.value)
	if err == nil {
		err = refuseZero(raw)
	}
	if err != nil {
		p.problems.add(e.at, "PrivateKey %v", err)
		return
	}
	p.config.PrivateKey = key.NodePrivateFromRaw(raw)
}

func (p *wgParser) readPublicKey(e entry) {
	p.peer().keyAt = e.at
	raw, err := decodeKey(e.value)
	if err == nil {
		err = refuseZero(raw)
	}
	if err == nil && key.NodePublic(raw).Check() != nil {
		err = errors.New("is a point of low order, which nobody can have a private key for")
	}
	if err != nil {
		p.problems.add(e.at, "PublicKey %s %v", quote(e.value), err)
		return
	}
	p.peer().publicKey = raw
}

// readPresharedKey accepts an all-zero key, which removes the key of an earlier section.
func (p *wgParser) readPresharedKey(e entry) {
	raw, err := decodeKey(e.value)
	if err != nil {
		p.problems.add(e.at, "PresharedKey %v", err)
		return
	}
	psk := key.PresharedFromRaw(raw)
	p.peer().presharedKey = &psk
}

// decodeKey decodes a key as strictly as key_from_base64 of wg: 44 characters of standard base64,
// with one padding character and no stray bits before it. The error does not quote the value.
func decodeKey(s string) (k [key.Size]byte, err error) {
	const length = 44
	if s = squeeze(s); len(s) != length {
		return k, fmt.Errorf("has %d characters, want the %d of 32 bytes in base64", len(s), length)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != key.Size {
		return k, errors.New("is not 32 bytes in base64")
	}
	return [key.Size]byte(b), nil
}

func refuseZero(k [key.Size]byte) error {
	if k == [key.Size]byte{} {
		return errors.New("is all zero")
	}
	return nil
}

func (p *wgParser) readAddress(e entry) {
	for _, item := range e.items(isSpaceOrComma) {
		p.addressAt = item.at
		if prefix, ok := p.readPrefix(item); ok {
			p.config.Addresses = append(p.config.Addresses, prefix)
		}
	}
}

func (p *wgParser) readAllowedIPs(e entry) {
	if e.value == "" {
		p.problems.add(e.at, "AllowedIPs is empty")
	}
	for _, item := range e.items(func(r rune) bool { return r == ',' }) {
		item.value = squeeze(item.value)
		prefix, ok := p.readPrefix(item)
		if !ok {
			continue
		}
		if prefix != prefix.Masked() {
			p.warnings.add(item.at, "AllowedIPs: %v means %v", prefix, prefix.Masked())
		}
		p.peer().allowed = append(p.peer().allowed, allowedIP{prefix.Masked(), item.at})
	}
}

// readPrefix parses an address, in the forms of inet_pton, with an optional prefix length.
func (p *wgParser) readPrefix(e entry) (netip.Prefix, bool) {
	ip, length, cut := strings.Cut(e.value, "/")
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Zone() != "" {
		p.problems.add(e.at, "%s: %s is not an address or prefix", e.key, quote(e.value))
		return netip.Prefix{}, false
	}
	bits := uint64(addr.BitLen())
	if cut {
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || n > bits {
			p.problems.add(e.at, "%s: %s has no prefix length from 0 to %d", e.key, quote(e.value), bits)
			return netip.Prefix{}, false
		}
		bits = n
	}
	return netip.PrefixFrom(addr, int(bits)), true
}

// readDNS distinguishes resolvers from search domains by the rule of wg-quick: an item with a
// colon, or of only digits and dots, is an address.
func (p *wgParser) readDNS(e entry) {
	for _, item := range e.items(isSpaceOrComma) {
		switch {
		case strings.Contains(item.value, ":") || strings.Trim(item.value, "0123456789.") == "":
			addr, err := netip.ParseAddr(item.value)
			if err != nil {
				p.problems.add(item.at, "DNS: %s is not an address", quote(item.value))
				continue
			}
			p.config.DNS = append(p.config.DNS, addr)
		case strings.HasPrefix(item.value, "~"):
			p.warnings.add(item.at, "DNS: the routing domain %s of systemd-resolved is ignored", quote(item.value))
		default:
			if err := checkName(item.value); err != nil {
				p.problems.add(item.at, "DNS: %v", err)
				continue
			}
			p.config.Search = append(p.config.Search, item.value)
		}
	}
}

func (p *wgParser) readListenPort(e entry) {
	port, err := parsePort(squeeze(e.value), 0)
	if err != nil {
		p.problems.add(e.at, "ListenPort: %v", err)
		return
	}
	p.config.ListenPort = port
}

func (p *wgParser) readMTU(e entry) {
	if e.value == "" {
		return // the MTU is chosen automatically, as in wg-quick
	}
	mtu, err := strconv.ParseUint(e.value, 10, 16)
	if err != nil || mtu < minMTU || mtu > maxMTU {
		p.problems.add(e.at, "MTU: %s is not a number from %d to %d", quote(e.value), minMTU, maxMTU)
		return
	}
	p.config.MTU, p.mtuAt = int(mtu), e.at
}

// readEndpoint splits at the last colon like wg, so that an IPv6 address needs no brackets.
func (p *wgParser) readEndpoint(e entry) {
	value := squeeze(e.value)
	rest, host, port, err := cutHostPort(value)
	if err == nil && rest != "" {
		host = value[:len(value)-len(port)-1]
	}
	var endpoint Endpoint
	if err == nil {
		endpoint.Host, err = parseHost(host)
	}
	if err == nil {
		endpoint.Port, err = parsePort(port, 1)
	}
	if err != nil {
		p.problems.add(e.at, "Endpoint: %s is not host:port: %v", quote(e.value), err)
		return
	}
	p.peer().endpoint = &endpoint
}

func (p *wgParser) readKeepalive(e entry) {
	var seconds uint64
	if value := squeeze(e.value); !strings.EqualFold(value, "off") {
		var err error
		if seconds, err = strconv.ParseUint(value, 10, 16); err != nil {
			p.problems.add(e.at, `PersistentKeepalive: %s is neither "off" nor a number of seconds from 0 to 65535`,
				quote(e.value))
			return
		}
	}
	keepalive := time.Duration(seconds) * time.Second
	p.peer().keepalive = &keepalive
}

func (p *wgParser) readFwMark(e entry) {
	if digits, base := squeeze(e.value), 10; !strings.EqualFold(digits, "off") {
		if hex, ok := strings.CutPrefix(digits, "0x"); ok {
			digits, base = hex, 16
		}
		if _, err := strconv.ParseUint(digits, base, 32); err != nil {
			p.problems.add(e.at, `FwMark: %s is neither "off" nor a number of 32 bits`, quote(e.value))
			return
		}
	}
	p.warnings.add(e.keyAt, "FwMark is ignored: marking packets needs privileges")
}

func (p *wgParser) readTable(e entry) {
	p.warnings.add(e.keyAt, "Table is ignored: the host's routes are not changed")
}

// readCommand ignores the value, which may contain a password.
func (p *wgParser) readCommand(e entry) {
	p.warnings.add(e.keyAt, "%s is ignored: commands are never run", e.key)
}

func (p *wgParser) readSaveConfig(e entry) {
	if !strings.EqualFold(e.value, "true") && !strings.EqualFold(e.value, "false") {
		p.problems.add(e.at, "SaveConfig: %s is neither true nor false", quote(e.value))
		return
	}
	p.warnings.add(e.keyAt, "SaveConfig is ignored: the file is never written")
}

func isIPv6(prefix netip.Prefix) bool { return prefix.Addr().Is6() }
