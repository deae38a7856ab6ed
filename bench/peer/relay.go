package peer

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"

	"ginnel/bench/netlab"
	"ginnel/relay"
)

const relayPort = 443

// certificatePin is what both relays print of the certificate that they make for themselves.
var certificatePin = regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`)

// relayKind is the make of a relay.
type relayKind int

const (
	ownRelay    relayKind = iota // that of the coordination server
	ginnelRelay                  // a program of its own
	derper
	forwarder // no relay: it passes TCP connections on to the service
)

// Relay is a relay on a machine of its own.
type Relay struct {
	Region  *relay.Region // has it and nothing else; nil for a forwarder
	Process *netlab.Process
}

// startRelay starts a relay with TLS and waits until it listens.
func startRelay(ctx context.Context, m machine, kind relayKind) (*Relay, error) {
	listen := func(port uint16) string { return netip.AddrPortFrom(m.host.Addr, port).String() }
	var err error
	switch kind {
	case ginnelRelay:
		err = m.start("ginnel", "relay", "serve", "--listen", listen(relayPort), "--stun", listen(stunPort),
			"--hostname", m.host.Addr.String(), "--state", m.dir)
	case derper:
		err = m.start("derper", "-a", listen(relayPort), "-http-port", "-1", "-stun-port", fmt.Sprint(stunPort),
			"-certmode", "manual", "-hostname", m.host.Addr.String(), "-certdir", m.dir, "-c", filepath.Join(m.dir, "derper.key"))
	default:
		return nil, fmt.Errorf("peer: there is no relay of kind %d", kind)
	}
	if err != nil {
		return nil, err
	}
	pin, err := m.process.Await(ctx, certificatePin)
	if err != nil {
		return nil, err
	}
	return &Relay{Region: regionOf(m.host.Addr, relayPort, pin), Process: m.process}, nil
}

// Forwarding is what a forwarder writes when it can be reached.
const Forwarding = "forwarding"

var forwardingLine = regexp.MustCompile(Forwarding)

// startForwarder starts a forwarder to the service and waits until it listens.
func startForwarder(ctx context.Context, m machine, command []string, to netip.AddrPort) (*Relay, error) {
	listen := netip.AddrPortFrom(m.host.Addr, ServicePort)
	args := append(slices.Clone(command), listen.String(), to.String())
	process, err := m.lab.Start(m.host.Name+" forwarder", m.host.Command(m.dir, args[0], args[1:]...))
	if err != nil {
		return nil, err
	}
	if _, err := process.Await(ctx, forwardingLine); err != nil {
		return nil, err
	}
	return &Relay{Process: process}, nil
}
