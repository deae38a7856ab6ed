package cli

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// versionInfo is what version --json prints.
type versionInfo struct {
	Version   string         `json:"version"`
	Go        string         `json:"go"`
	Platform  string         `json:"platform"`
	Protocols map[string]int `json:"protocols"`
}

// protocols are the versions spoken on each wire.
var protocols = map[string]int{"derp": 2, "disco": 0, "wireguard": 1}

func newVersion(p Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, that of Go and those of the protocols",
		Example: "  ginnel version --json",
		Args:    NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: p.BuildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
				Protocols: protocols}
			if asJSON {
				return json.NewEncoder(p.Stdout).Encode(v)
			}
			_, err := fmt.Fprintf(p.Stdout, "ginnel %s (%s, %s)\nDERP %d, disco %d, WireGuard %d\n", v.Version, v.Go, v.Platform,
				v.Protocols["derp"], v.Protocols["disco"], v.Protocols["wireguard"])
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
