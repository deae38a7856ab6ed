//go:build lab

package lab

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ginnel/key"
)

// stockPeer is a wireguard-go process with a TUN device, running as root.
type stockPeer struct {
	ns      *netns
	key     key.NodePrivate
	dev     string
	port    int
	addrs   []string // of the device, with prefix lengths
	clients map[key.NodePublic]stockClient
	proc    *process
}

// stockClient is a stock peer's configuration for one of its own peers.
type stockClient struct {
	allowed      []string
	presharedKey [key.Size]byte
	endpoint     string // empty: the client has to send first
}

// newStockPeer returns a peer that is not started yet.
func newStockPeer(ns *netns, port int, addrs ...string) *stockPeer {
	return &stockPeer{ns: ns, key: key.NewNodePrivate(), port: port, addrs: addrs,
		dev: fmt.Sprintf("wg%d", serial.Add(1)), clients: make(map[key.NodePublic]stockClient)}
}

func (p *stockPeer) start() {
	p.ns.t.Helper()
	p.proc = p.ns.start("wireguard-go in "+p.ns.name, command{as: asRoot,
		args: []string{programs.wireguard, "-f", p.dev}, env: []string{"LOG_LEVEL=verbose", "WG_PROCESS_FOREGROUND=1"}})
	p.proc.await(&p.proc.out, "UAPI listener started", dialTimeout)
	var text strings.Builder
	raw := p.key.Raw()
	fmt.Fprintf(&text, "set=1\nprivate_key=%s\nlisten_port=%d\nreplace_peers=true\n", hex.EncodeToString(raw[:]), p.port)
	for k, c := range p.clients {
		fmt.Fprintf(&text, "public_key=%s\npreshared_key=%s\n", hex.EncodeToString(k[:]),
			hex.EncodeToString(c.presharedKey[:]))
		for _, a := range c.allowed {
			fmt.Fprintf(&text, "allowed_ip=%s\n", a)
		}
		if c.endpoint != "" {
			fmt.Fprintf(&text, "endpoint=%s\n", c.endpoint)
		}
	}
	p.uapi(text.String())
	p.ns.addr(p.dev, p.addrs...)
	p.ns.ip("link", "set", p.dev, "mtu", "1420", "up")
}

// restart replaces the process by one with the same key, and without sessions or learned endpoints.
func (p *stockPeer) restart() {
	p.ns.t.Helper()
	p.proc.terminate()
	p.start()
}

// uapi sends one request to wireguard-go's configuration socket and returns the response.
func (p *stockPeer) uapi(request string) string {
	p.ns.t.Helper()
	c, err := net.Dial("unix", filepath.Join(programs.dir, "wg", p.dev+".sock"))
	if err != nil {
		p.ns.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(dialTimeout))
	fmt.Fprintf(c, "%s\n", request)
	var answer strings.Builder
	for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != ""; {
		fmt.Fprintln(&answer, lines.Text())
	}
	if !strings.Contains(answer.String(), "errno=0") {
		p.ns.t.Fatalf("wireguard-go refused: %s", answer.String())
	}
	return answer.String()
}

// base64Of encodes a key as WireGuard's configuration files do.
func base64Of(raw [key.Size]byte) string { return base64.StdEncoding.EncodeToString(raw[:]) }

// assertHidden checks that text does not contain a secret key in base64 or hexadecimal.
func assertHidden(t *testing.T, where, text string, secret [key.Size]byte) {
	t.Helper()
	for _, form := range []string{base64Of(secret), strings.TrimRight(base64Of(secret), "="),
		hex.EncodeToString(secret[:])} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
			t.Errorf("%s shows a secret key", where)
			return
		}
	}
}
