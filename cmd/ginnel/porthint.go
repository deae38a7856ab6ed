package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"ginnel/configs"
)

// portHint adds to the error of a listener which flag names its port, and how to choose another.
func (f *nodeFlags) portHint(err error) error {
	example := f.otherPort(err)
	op, ok := errors.AsType[*net.OpError](err)
	onSocket := ok && op.Addr != nil && op.Addr.Network() == "unix"
	switch {
	case onSocket && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)):
		return fmt.Errorf("%w; choose another path, such as unix:/tmp/ginnel.sock", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; choose another port, such as %s", err, example)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w; a port from 1024 on needs no rights, such as %s", err, example)
	}
	return err
}

// otherPort is the flag whose listener could not be opened, with a port that may be free.
func (f *nodeFlags) otherPort(err error) string {
	const example = "--proxy 127.0.0.1:1081"
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Addr == nil {
		return example
	}
	is := func(a configs.Address) bool {
		port := portNumber(a.String())
		return port != 0 && port == portNumber(op.Addr.String())
	}
	udp := op.Addr.Network() == "udp"
	for _, a := range f.proxies.values {
		if !udp && is(a) {
			return "--proxy " + withPort(a, 1081)
		}
	}
	for _, forward := range f.forwards.values {
		if listen := forward.Listen; udp == (listen.Network() == "udp") && is(listen) {
			suffix := ""
			if udp {
				suffix = "/udp"
			}
			return "-L " + withPort(listen, 15432) + ":" + forward.Target.String() + suffix
		}
	}
	if f.dns.text != "" && is(f.dns.value) {
		return "--dns " + withPort(f.dns.value, 5353)
	}
	if udp { // or the ListenPort of a wg-quick file
		return "--udp-port 41642"
	}
	return example
}

// withPort is an address to listen on with another port, or the next one if it has that.
func withPort(a configs.Address, port int) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String() // a unix socket
	}
	if portNumber(a.String()) == port {
		port++
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}
