package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"ginnel/bench/load"
	"ginnel/bench/netlab"
)

// ServicePort is the port of the service on every address of its host. The far node offers it in
// the mesh.
const ServicePort = 8000

const (
	socksAddr = "127.0.0.1:1080"
	httpAddr  = "127.0.0.1:1081" // for programs with a separate HTTP proxy
)

// Path is how nodes reach each other.
type Path string

// The paths.
const (
	DirectPath Path = "direct"
	RelayPath  Path = "relay"
)

// Node is a program that joins a network and serves a proxy.
type Node interface {
	// Start starts the program and makes it join. The node may not be usable yet.
	Start(ctx context.Context) error
	// Ready waits until the node is usable, and returns its address in the mesh.
	Ready(ctx context.Context) (netip.Addr, error)
	// Path pings a peer and returns the path that was used.
	Path(ctx context.Context, peer string) (Path, error)
	// Process returns the running program.
	Process() *netlab.Process
}

// proxies are the proxies of the near node, on the client's host.
type proxies struct {
	SOCKS, HTTP load.Proxy
}

func proxiesAt(socks, http string) proxies {
	return proxies{SOCKS: load.Proxy{Kind: load.SOCKS5, Addr: socks}, HTTP: load.Proxy{Kind: load.CONNECT, Addr: http}}
}

// machine is the host of a node, and what all kinds of nodes have in common.
type machine struct {
	host     *netlab.Host
	lab      *netlab.Lab
	programs Programs
	build    Programs // directory of the program ginnel
	dir      string   // state directory
	process  *netlab.Process
}

func (m *machine) Process() *netlab.Process { return m.process }

// path returns the file of a program.
func (m *machine) path(name string) string {
	if name == "ginnel" {
		return m.build.path(name)
	}
	return m.programs.path(name)
}

// start starts a program in the background.
func (m *machine) start(name string, args ...string) (err error) {
	cmd := m.host.Command(m.dir, m.path(name), args...)
	m.process, err = m.lab.Start(m.host.Name+" "+name, cmd)
	return err
}

// ask runs a program to its end and returns its standard output.
func (m *machine) ask(ctx context.Context, name string, args ...string) ([]byte, error) {
	return output(ctx, m.host.Command(m.dir, m.path(name), args...))
}

// output runs a command to its end, or until the context ends, and returns its standard output.
func output(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		text := strings.TrimSpace(complaint.String() + out.String())
		return nil, fmt.Errorf("running %s: %w: %s", strings.Join(cmd.Args, " "), errors.Join(err, ctx.Err()), text)
	}
	return out.Bytes(), nil
}

// bound waits until the program has bound a UDP port.
func (m *machine) bound(ctx context.Context, port int) error {
	return m.process.Until(ctx, fmt.Sprintf("UDP port %d is open", port), func(context.Context) error {
		var all []byte
		for _, file := range []string{"udp", "udp6"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", m.process.PID(), file))
			if err != nil {
				return err
			}
			all = append(all, b...)
		}
		if !bytes.Contains(all, fmt.Appendf(nil, ":%04X ", port)) {
			return errors.New("the port is not bound")
		}
		return nil
	})
}
