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

// EnvName returns the name of the environment variable for a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// MeshProxyVariable holds the URL of a node's proxy. Programs use it as a SOCKS proxy, and the
// commands of this program find the node by it. It is also the variable of the flag --proxy of up
// and run, whose value is an address to listen on; IsProxyURL tells the two apart.
const MeshProxyVariable = envPrefix + "PROXY"

// proxySchemes are the URL schemes for a node's proxy. Its port speaks all of them.
var proxySchemes = []string{"socks5h", "socks5", "http"}

// IsProxyURL tells the URL of a proxy from an address to listen at.
func IsProxyURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && slices.Contains(proxySchemes, scheme)
}

// isOtherUse reports whether the environment variable of a flag is not meant as the value of the
// flag. 'ginnel run' and 'ginnel up --env' set GINNEL_PROXY to the URL of their node's proxy, and
// it must not become the address that another node listens on.
func isOtherUse(f *pflag.Flag, value string) bool {
	_, listens := f.Value.(*List[configs.Address])
	return EnvName(f.Name) == MeshProxyVariable && listens && IsProxyURL(value)
}

// WarnOfEnvironment warns of variables that begin with GINNEL_ and are not settings, because a
// misspelt one would go unseen. It is not an error, because others set such variables too:
// Kubernetes does for a service named ginnel.
func WarnOfEnvironment(cmd *cobra.Command, p Program, log *slog.Logger) {
	for _, s := range strayVariables(cmd, p) {
		args := []any{"name", s.name}
		if s.meant != "" {
			args = append(args, "meant", s.meant+"?")
		}
		log.Warn("environment variable is not a setting", args...)
	}
}

// WithStrayVariables adds to a usage error the variables that WarnOfEnvironment warns of. One of
// them may be the missing setting, misspelt.
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

// strayVariable is an environment variable that begins with GINNEL_ and is not a setting.
type strayVariable struct {
	name  string
	meant string // the setting with the most similar name; empty: none is similar
}

func strayVariables(cmd *cobra.Command, p Program) (stray []strayVariable) {
	known := map[string]bool{EnvName("config"): true}
	for name := range KnownSettings(cmd.Root()) {
		known[EnvName(name)] = true
	}
	for _, kv := range p.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) && !known[name] && !strings.Contains(name, "_SERVICE_") &&
			!strings.Contains(name, "_PORT") {
			stray = append(stray, strayVariable{name, nearest(name, slices.Sorted(maps.Keys(known)))})
		}
	}
	return stray
}
