package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ginnel/bench/netlab"
	"ginnel/relay"
)

const (
	controlPort = 8080
	stunPort    = 3478
)

// control is our coordination server in the hub, which all contenders with a mesh use.
type control struct {
	programs Programs
	dir      string
	key      string // reusable auth key
	process  *netlab.Process
}

// startControl starts a server with one relay: r, or the server's own if r is nil.
func startControl(ctx context.Context, lab *netlab.Lab, programs Programs, dir string, r *Relay) (*control, error) {
	c := &control{programs: programs, dir: dir}
	args := []string{"control", "serve", "--url", c.url(), "--listen", hubAddr(controlPort), "--state", dir,
		"--base-domain", "bench.example"}
	if r == nil {
		args = append(args, "--stun", hubAddr(stunPort))
	} else {
		file := filepath.Join(dir, "map.json")
		b, err := json.Marshal(relay.Map{Regions: map[int]*relay.Region{r.Region.RegionID: r.Region}})
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--stun", "none", "--relay", "none", "--derp-map", file)
	}
	var err error
	if c.process, err = lab.Start("ginnel control", c.command(args...)); err != nil {
		return nil, err
	}
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	if _, err = output(ctx, c.command("control", "users", "create", "ann", "--state", dir)); err != nil {
		return nil, err
	}
	key, err := output(ctx, c.command("control", "keys", "create", "--user", "ann", "--reusable", "--state", dir))
	c.key = strings.TrimSpace(string(key))
	return c, err
}

func (c *control) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.programs.path("ginnel"), args...)
	cmd.Env = netlab.Environment(c.dir)
	return cmd
}

// open waits until the server answers.
func (c *control) open(ctx context.Context) error {
	return c.process.Until(ctx, "it answers", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url()+"/healthz", nil)
		if err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	})
}

func (c *control) url() string { return "http://" + hubAddr(controlPort) }

func hubAddr(port uint16) string { return netip.AddrPortFrom(netlab.Hub, port).String() }

// regionOf describes the only relay of a mesh.
func regionOf(addr netip.Addr, port int, pin string) *relay.Region {
	const id, code = 900, "bench"
	return &relay.Region{RegionID: id, RegionCode: code, RegionName: code, Nodes: []*relay.Node{{
		Name: fmt.Sprintf("%da", id), RegionID: id, HostName: addr.String(), CertName: pin, IPv4: addr.String(), IPv6: "none",
		DERPPort: port, STUNPort: stunPort,
	}}}
}
