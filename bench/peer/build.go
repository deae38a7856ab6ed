package peer

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs is the directory of the built programs.
type Programs string

func (p Programs) path(name string) string { return filepath.Join(string(p), name) }

// module is a Go module, by its directory in the repository, and the packages that are built from
// it.
type module struct {
	dir       string
	packages  []string
	toolchain string // the Go version that it needs if newer than ours; the go command fetches it
}

var (
	ginnelModule    = module{dir: ".", packages: []string{"ginnel/cmd/ginnel"}}
	wireproxyModule = module{dir: "bench/peers/wireproxy",
		packages: []string{"github.com/pufferffish/wireproxy/cmd/wireproxy"}}
	tailscaledModule = module{dir: "bench/peers/tailscaled",
		packages: []string{"tailscale.com/cmd/tailscale", "tailscale.com/cmd/tailscaled"}}
	derperModule = module{dir: "bench/peers/derper", packages: []string{"tailscale.com/cmd/derper"}, toolchain: "go1.27.4"}
)

// Build builds the programs of the contenders, all in the same way: without cgo, as releases are,
// and with symbols, which use no memory and give a profiler names. The go command skips programs
// that are up to date.
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
