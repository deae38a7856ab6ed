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

// certificatePin matches the pin that both relays print for their self-signed certificates.
var certificatePin = regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`)

// relayKind is the program that serves as relay.
type relayKind int

const (
	ownRelay    relayKind = iota // the coordination server's own relay
	ginnelRelay                  // ginnel relay serve
	derper
	forwarder // no relay, but a TCP forwarder to the service
)

// Relay is a relay on its own host.
type Relay struct {
	Region  *relay.Region // a region with only this relay; nil for a forwarder
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
			"-certmode", "manual", "-hostname", m.host.Addr.String(), "-certdir", m.dir,
			"-c", filepath.Join(m.dir, "derper.key"))
	default:
		return nil, fmt.Errorf("peer: unknown relay kind %d", kind)
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

// Forwarding is the line that a forwarder writes once it listens.
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
