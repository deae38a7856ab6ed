package peer

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// wireGuardPort is the UDP port of nodes without a coordination server.
const wireGuardPort = 51820

// tunnel is one end of a plain WireGuard tunnel between two hosts.
type tunnel struct {
	text string     // wg-quick file
	addr netip.Addr // inside the tunnel
}

// newTunnel returns the two ends of a tunnel between hosts.
func newTunnel(first, second netip.Addr) (ends [2]tunnel, err error) {
	hosts := [2]netip.Addr{first, second}
	inner := [2]netip.Addr{netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("10.88.0.2")}
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return ends, err
		}
	}
	text := base64.StdEncoding.EncodeToString
	for i := range ends {
		ends[i] = tunnel{addr: inner[i], text: fmt.Sprintf(
			"[Interface]\nPrivateKey = %s\nAddress = %s/32\nListenPort = %d\n\n"+
				"[Peer]\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = %s/32\n",
			text(keys[i].Bytes()), inner[i], wireGuardPort,
			text(keys[1-i].PublicKey().Bytes()), netip.AddrPortFrom(hosts[1-i], wireGuardPort), inner[1-i])}
	}
	return ends, nil
}

// plain is what all nodes with one end of a plain tunnel have in common.
type plain struct {
	machine
	tunnel tunnel
}

func (p *plain) Ready(ctx context.Context) (netip.Addr, error) {
	return p.tunnel.addr, p.bound(ctx, wireGuardPort)
}

// Path is always direct, because a wg-quick file has no relay.
func (p *plain) Path(context.Context, string) (Path, error) { return DirectPath, nil }

// writeFile writes a file, which contains a private key, into the node's directory.
func (p *plain) writeFile(name, text string) (path string, err error) {
	path = filepath.Join(p.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// ginnelPlain is our node with a wg-quick file.
type ginnelPlain struct{ plain }

func newGinnelPlain(m machine, t tunnel) Node { return &ginnelPlain{plain{m, t}} }

func (g *ginnelPlain) Start(ctx context.Context) error {
	file, err := g.writeFile("wg0.conf", g.tunnel.text)
	if err != nil {
		return err
	}
	node := ginnel{machine: g.machine, join: []string{"--wireguard", file}}
	err = node.Start(ctx)
	g.process = node.process
	return err
}

// wireproxy is the stock program of that name.
type wireproxy struct{ plain }

func newWireproxy(m machine, t tunnel) Node { return &wireproxy{plain{m, t}} }

func (w *wireproxy) Start(context.Context) error {
	text := fmt.Sprintf(
		"%s\n[Socks5]\nBindAddress = %s\n\n[http]\nBindAddress = %s\n\n"+
			"[TCPServerTunnel]\nListenPort = %d\nTarget = 127.0.0.1:%[4]d\n",
		w.tunnel.text, socksAddr, httpAddr, ServicePort)
	file, err := w.writeFile("wireproxy.conf", text)
	if err != nil {
		return err
	}
	return w.start("wireproxy", "-c", file)
}
