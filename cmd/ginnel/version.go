package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker in releases.
var version = ""

// versionInfo is what version --json prints.
type versionInfo struct {
	Version   string         `json:"version"`
	Go        string         `json:"go"`
	Platform  string         `json:"platform"`
	Protocols map[string]int `json:"protocols"`
}

// protocols are the versions spoken on each wire.
var protocols = map[string]int{"derp": 2, "disco": 0, "wireguard": 1}

func newVersion(p program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, that of Go and those of the protocols",
		Example: "  ginnel version --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Protocols: protocols}
			if asJSON {
				return json.NewEncoder(p.stdout).Encode(v)
			}
			_, err := fmt.Fprintf(p.stdout, "ginnel %s (%s, %s)\nDERP %d, disco %d, WireGuard %d\n", v.Version, v.Go, v.Platform,
				v.Protocols["derp"], v.Protocols["disco"], v.Protocols["wireguard"])
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// buildVersion is the linker's version, or the revision that the binary was built from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel " + s.Value[:12]
		}
	}
	return "devel"
}
