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

// Address is an address to listen on or to dial. It implements net.Addr; its network is "tcp",
// "udp" or "unix".
type Address struct{ network, address string }

// Network returns the network for net.Listen or net.Dial.
func (a Address) Network() string { return a.network }

// String returns the address for net.Listen or net.Dial: host:port, or the path of a unix socket.
// An empty host means every address of the machine.
func (a Address) String() string { return a.address }

// OnlyLocal reports whether only this machine can reach a listener at a: it is a unix socket or on
// a loopback address.
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

// Forward is a local listener whose connections or datagrams go to a service in the mesh. Both
// addresses have the same network, except that a unix socket forwards to TCP.
type Forward struct {
	Listen Address
	Target Address // its host may be a name in the mesh
}

// Serve is a port of the node in the mesh whose connections or datagrams go to a target on this
// machine. The port is UDP if the target is, and TCP otherwise.
type Serve struct {
	Port   uint16
	Target Address
}

// ParseForward parses [bind:]port:host:hostport, as ssh -L does, or unix:PATH:host:hostport. A
// final /udp makes it UDP. IPv6 addresses must be in brackets. Without bind, the listener is on
// loopback; an empty bind or * means every address. Port 0 means a free port.
func ParseForward(s string) (Forward, error) {
	forward, err := parseForward(s)
	if err != nil {
		return Forward{}, fmt.Errorf("%s: %w, want [bind:]port:host:hostport[/udp] or unix:PATH:host:hostport, "+
			"such as 5432:db:5432", quote(s), err)
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

// ParseServe parses PORT=LOCAL[/udp], where LOCAL is a port on loopback, host:port or unix:PATH.
func ParseServe(s string) (Serve, error) {
	serve, err := parseServe(s)
	if err != nil {
		return Serve{}, fmt.Errorf("%s: %w, want PORT=LOCAL[/udp], where LOCAL is port, host:port or unix:PATH",
			quote(s), err)
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

// parseTarget parses [host:]port.
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

// ParseProxyAddr parses the address on which a proxy listens: host:port, a port alone for loopback,
// :port or *:port for every address of the machine, or unix:PATH. Port 0 means a free port.
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

// ParseDNSAddr parses the address on which a DNS server listens: host:port, a port alone for
// loopback, or *:port for every address of the machine. Unlike for a proxy, an empty host means
// loopback, because a DNS server has no authentication.
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
	errUnixUDP  = errors.New("unix sockets cannot carry UDP")
	errBrackets = errors.New("there are too many colons (an IPv6 address needs brackets)")
)

// cutNetwork removes a final /udp from s and returns the network.
func cutNetwork(s string) (rest, network string) {
	if rest, ok := strings.CutSuffix(s, udpSuffix); ok {
		return rest, "udp"
	}
	return s, "tcp"
}

// parseListen parses [bind:]port.
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
