package cli

import (
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ginnel/configs"
)

// envPrefix begins the environment variable of every flag.
const envPrefix = "GINNEL_"

// EnvName is the environment variable of a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// MeshProxyVariable names the proxy for what speaks SOCKS, and the node for the commands of this
// program. The flag --proxy of up and run has the same name in the environment; IsProxyURL tells
// the two apart.
const MeshProxyVariable = envPrefix + "PROXY"

// proxySchemes are those of a URL that names a node's proxy: its port speaks all of them.
var proxySchemes = []string{"socks5h", "socks5", "http"}

// IsProxyURL tells the URL of a proxy from an address to listen at.
func IsProxyURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && slices.Contains(proxySchemes, scheme)
}

// isOtherUse reports whether a variable with the name of a setting is not meant as one: 'ginnel
// run' and 'ginnel up --env' set GINNEL_PROXY to the URL of a node's proxy, and --proxy of a
// further node is where that listens.
func isOtherUse(f *pflag.Flag, value string) bool {
	_, listens := f.Value.(*List[configs.Address])
	return EnvName(f.Name) == MeshProxyVariable && listens && IsProxyURL(value)
}

// WarnOfEnvironment warns of variables that look like settings and are none: a typing error would
// otherwise go unseen. It is no error because others set such variables too, Kubernetes for a
// service named ginnel.
func WarnOfEnvironment(cmd *cobra.Command, p Program, log *slog.Logger) {
	for _, s := range strayVariables(cmd, p) {
		args := []any{"name", s.name}
		if s.meant != "" {
			args = append(args, "meant", s.meant+"?")
		}
		log.Warn("environment variable is not a setting", args...)
	}
}

// WithStrayVariables adds to a usage error the variables that look like settings and are none: one
// of them may be what is missing.
func WithStrayVariables(err error, cmd *cobra.Command, p Program) error {
	if err == nil {
		return nil
	}
	for _, s := range strayVariables(cmd, p) {
		hint := s.name + " is not known"
		if s.meant != "" {
			hint += ", did you mean " + s.meant + "?"
		}
		err = Usagef("%w\n%s", err, hint)
	}
	return err
}

// strayVariable is a variable of the environment that looks like a setting and is none.
type strayVariable struct{ name, meant string } // meant is the nearest setting; empty: none is near

func strayVariables(cmd *cobra.Command, p Program) (stray []strayVariable) {
	known := map[string]bool{EnvName("config"): true}
	for name := range KnownSettings(cmd.Root()) {
		known[EnvName(name)] = true
	}
	for _, kv := range p.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) && !known[name] && !strings.Contains(name, "_SERVICE_") && !strings.Contains(name, "_PORT") {
			stray = append(stray, strayVariable{name, nearest(name, slices.Sorted(maps.Keys(known)))})
		}
	}
	return stray
}
