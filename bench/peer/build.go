package peer

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs is the directory with the programs.
type Programs string

func (p Programs) path(name string) string { return filepath.Join(string(p), name) }

// module is a Go module, by its place under the root of the repository, and what is built from it.
type module struct {
	dir       string
	packages  []string
	toolchain string // the Go version that it needs, if that is newer than ours; the go command fetches it
}

var (
	ginnelModule     = module{dir: ".", packages: []string{"ginnel/cmd/ginnel"}}
	wireproxyModule  = module{dir: "bench/peers/wireproxy", packages: []string{"github.com/pufferffish/wireproxy/cmd/wireproxy"}}
	tailscaledModule = module{dir: "bench/peers/tailscaled",
		packages: []string{"tailscale.com/cmd/tailscale", "tailscale.com/cmd/tailscaled"}}
	derperModule = module{dir: "bench/peers/derper", packages: []string{"tailscale.com/cmd/derper"}, toolchain: "go1.27.4"}
)

// Build makes what the contenders consist of, all in the same way: without C, as releases are, and
// with symbols, which take no memory and let a profiler name what it sees. Programs that are up to
// date stay as they are.
func Build(ctx context.Context, root string, dir Programs, contenders []*Contender) error {
	built := make(map[string]bool)
	for _, c := range contenders {
		for _, m := range c.modules {
			if built[m.dir] {
				continue
			}
			built[m.dir] = true
			args := append([]string{"build", "-trimpath", "-o", string(dir) + "/"}, m.packages...)
			cmd := exec.CommandContext(ctx, "go", args...)
			cmd.Dir = filepath.Join(root, m.dir)
			cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
			if m.toolchain != "" {
				cmd.Env = append(cmd.Env, "GOTOOLCHAIN="+m.toolchain)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("building %s: %w\n%s", strings.Join(m.packages, " "), err, out)
			}
		}
	}
	return nil
}
