package nodecmd

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"ginnel/configs"
	"ginnel/internal/cli"
)

// portHint adds to the error of a listener which flag has its port, and how to choose another.
func (o *nodeOptions) portHint(err error) error {
	example := o.otherPort(err)
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

// otherPort returns the flag whose listener could not be opened, with another port.
func (o *nodeOptions) otherPort(err error) string {
	const example = "--proxy 127.0.0.1:1081"
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Addr == nil {
		return example
	}
	is := func(a configs.Address) bool {
		port := cli.PortNumber(a.String())
		return port != 0 && port == cli.PortNumber(op.Addr.String())
	}
	udp := op.Addr.Network() == "udp"
	for _, a := range o.local.proxies.Values {
		if !udp && is(a) {
			return "--proxy " + withPort(a, 1081)
		}
	}
	for _, forward := range o.local.forwards.Values {
		if listen := forward.Listen; udp == (listen.Network() == "udp") && is(listen) {
			suffix := ""
			if udp {
				suffix = "/udp"
			}
			return "-L " + withPort(listen, 15432) + ":" + forward.Target.String() + suffix
		}
	}
	if o.local.dns.Text != "" && is(o.local.dns.Value) {
		return "--dns " + withPort(o.local.dns.Value, 5353)
	}
	if udp { // or the ListenPort of a wg-quick file
		return "--udp-port 41642"
	}
	return example
}

// withPort returns an address with another port, or with the next one if the address has that
// already.
func withPort(a configs.Address, port int) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String() // a unix socket
	}
	if cli.PortNumber(a.String()) == port {
		port++
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}
