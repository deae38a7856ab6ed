package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	unixPrefix = "unix:"
	udpSuffix  = "/udp"
	loopback   = "127.0.0.1"
)

// Address is a place to listen at or to dial, in the terms of package net, whose Addr it
// implements: its network is "tcp", "udp" or "unix".
type Address struct{ network, address string }

// Network returns the network for net.Listen or net.Dial.
func (a Address) Network() string { return a.network }

// String returns the address for net.Listen or net.Dial: host:port, or the path of a unix socket.
// An empty host is every address of the machine.
func (a Address) String() string { return a.address }

// OnlyLocal reports whether nobody but this machine reaches a listener at a: it is a unix socket or
// on a loopback address.
func (a Address) OnlyLocal() bool {
	if a.network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// Forward is a local port carried to a service of the mesh. Both sides are of the same network, but
// for a unix socket, which is carried to TCP.
type Forward struct {
	Listen Address
	Target Address // its host may be a name of the mesh
}

// Serve is a port of the node in the mesh, and where on this machine its connections or datagrams
// go. The mesh side is UDP if the target is, and TCP otherwise.
type Serve struct {
	Port   uint16
	Target Address
}

// ParseForward reads [bind:]port:host:hostport, as ssh -L takes it, or unix:PATH:host:hostport;
// /udp at the end makes it UDP. IPv6 addresses stand in brackets. Without bind, the listener is on
// loopback; an empty one or * is every address. Port 0 is a free one.
func ParseForward(s string) (Forward, error) {
	forward, err := parseForward(s)
	if err != nil {
		return Forward{}, fmt.Errorf("%s: %w, want [bind:]port:host:hostport[/udp] or unix:PATH:host:hostport, such as 5432:db:5432", quote(s), err)
	}
	return forward, nil
}

func parseForward(s string) (f Forward, err error) {
	s, network := cutNetwork(s)
	listen, host, port, err := cutHostPort(s)
	if err != nil {
		return f, err
	}
	path, isUnix := strings.CutPrefix(listen, unixPrefix)
	_, localErr := parsePort(host, 0)
	_, targetErr := parsePort(port, 0)
	switch {
	case listen == "" && localErr == nil && targetErr != nil: // PORT:HOST
		err = fmt.Errorf("port of the target %s is missing", quote(port))
	case listen == "":
		err = errors.New("local port is missing")
	case isUnix && network == "udp":
		err = errUnixUDP
	case isUnix:
		f.Listen, err = unixAddress(path)
	default:
		f.Listen, err = parseListen(network, listen)
	}
	if err != nil {
		return f, err
	}
	f.Target, err = dialAddress(network, host, port)
	return f, err
}

// ParseServe reads PORT=LOCAL[/udp], where LOCAL is a port on loopback, host:port or unix:PATH.
func ParseServe(s string) (Serve, error) {
	serve, err := parseServe(s)
	if err != nil {
		return Serve{}, fmt.Errorf("%s: %w, want PORT=LOCAL[/udp], where LOCAL is port, host:port or unix:PATH", quote(s), err)
	}
	return serve, nil
}

func parseServe(s string) (serve Serve, err error) {
	s, network := cutNetwork(s)
	port, local, ok := strings.Cut(s, "=")
	if !ok {
		return serve, errors.New("equals sign is missing")
	}
	if serve.Port, err = parsePort(port, 1); err != nil {
		return serve, err
	}
	path, isUnix := strings.CutPrefix(local, unixPrefix)
	switch {
	case isUnix && network == "udp":
		return serve, errUnixUDP
	case isUnix:
		serve.Target, err = unixAddress(path)
	default:
		serve.Target, err = parseTarget(network, local)
	}
	return serve, err
}

// parseTarget reads [host:]port.
func parseTarget(network, s string) (Address, error) {
	if !strings.Contains(s, ":") {
		return dialAddress(network, loopback, s)
	}
	rest, host, port, err := cutHostPort(s)
	if err != nil {
		return Address{}, err
	}
	if rest != "" {
		return Address{}, errBrackets
	}
	return dialAddress(network, host, port)
}

// ParseProxyAddr reads where a proxy listens: host:port, a port alone for loopback, :port or *:port
// for every address of the machine, or unix:PATH. Port 0 is a free one.
func ParseProxyAddr(s string) (Address, error) {
	path, isUnix := strings.CutPrefix(s, unixPrefix)
	var a Address
	var err error
	if isUnix {
		a, err = unixAddress(path)
	} else {
		a, err = parseListen("tcp", s)
	}
	if err != nil {
		return Address{}, fmt.Errorf("%s: %w, want host:port, :port, port or unix:PATH", quote(s), err)
	}
	return a, nil
}

// ParseDNSAddr reads where a DNS server listens: host:port, a port alone for loopback, or *:port
// for every address of the machine. An empty host, which proxies take for every address, is
// loopback here, because a DNS server asks for no password.
func ParseDNSAddr(s string) (Address, error) {
	listen := s
	if port, ok := strings.CutPrefix(s, ":"); ok && !strings.Contains(port, ":") {
		listen = port
	}
	a, err := parseListen("udp", listen)
	if err != nil {
		return Address{}, fmt.Errorf("%s: %w, want [host:]port", quote(s), err)
	}
	return a, nil
}

var (
	errUnixUDP  = errors.New("unix sockets carry no UDP")
	errBrackets = errors.New("there are too many colons (an IPv6 address needs brackets)")
)

// cutNetwork takes /udp off the end of s.
func cutNetwork(s string) (rest, network string) {
	if rest, ok := strings.CutSuffix(s, udpSuffix); ok {
		return rest, "udp"
	}
	return s, "tcp"
}

// parseListen reads [bind:]port.
func parseListen(network, s string) (Address, error) {
	if !strings.Contains(s, ":") {
		return listenAddress(network, loopback, s)
	}
	rest, bind, port, err := cutHostPort(s)
	if err != nil {
		return Address{}, err
	}
	if rest != "" {
		return Address{}, errBrackets
	}
	if bind == "" || bind == "*" {
		return listenAddress(network, "", port)
	}
	if bind, err = parseHost(bind); err != nil {
		return Address{}, err
	}
	return listenAddress(network, bind, port)
}

func listenAddress(network, host, port string) (Address, error) {
	n, err := parsePort(port, 0)
	return Address{network, net.JoinHostPort(host, strconv.Itoa(int(n)))}, err
}

func dialAddress(network, host, port string) (Address, error) {
	host, err := parseHost(host)
	if err != nil {
		return Address{}, err
	}
	n, err := parsePort(port, 1)
	return Address{network, net.JoinHostPort(host, strconv.Itoa(int(n)))}, err
}

func unixAddress(path string) (Address, error) {
	if path == "" {
		return Address{}, errors.New("path of the unix socket is missing")
	}
	return Address{"unix", path}, nil
}
