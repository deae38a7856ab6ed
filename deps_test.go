// Package ginnel_test holds the project to its own plan: who may import whom, and how files are
// formatted.
package ginnel_test

import (
	"bytes"
	"cmp"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport lists for each package those of the project that it may import. Siblings do not know
// each other: only node puts them together, and the commands (internal/cli) put node together with
// what users write. Nothing but package main imports the commands; main imports nothing else.
var mayImport = map[string][]string{
	"cmd/ginnel": {
		"internal/cli", "internal/cli/controlcmd", "internal/cli/democmd", "internal/cli/nodecmd",
		"internal/cli/relaycmd",
	},
	"configs":        {"internal/safetext", "key"},
	"control":        {"internal/httpconn", "internal/neterr", "internal/safetext", "internal/wsstream", "key"},
	"control/policy": {"control", "internal/meshaddr"},
	"control/server": {"control", "control/policy", "control/store", "internal/meshaddr", "internal/share", "key"},
	"control/store":  {},
	"internal/bbr":   {},
	"internal/cli":   {"configs", "internal/sys"},
	"internal/cli/controlcmd": {
		"configs", "control", "control/policy", "control/server", "control/store", "internal/cli",
		"internal/cli/service", "internal/cli/statedir", "internal/egress", "relay", "relay/server",
	},
	"internal/cli/democmd": {
		"control", "control/server", "control/store", "internal/cli", "key", "node", "relay/server",
	},
	"internal/cli/nodeapi": {"configs", "internal/cli", "internal/cli/statedir", "node"},
	"internal/cli/nodecmd": {
		"configs", "internal/cli", "internal/cli/nodeapi", "internal/cli/proxyenv", "internal/cli/statedir",
		"internal/egress", "internal/meshaddr", "internal/sys", "key", "node", "relay", "tuning",
	},
	"internal/cli/proxyenv": {"configs", "internal/cli"},
	"internal/cli/relaycmd": {
		"configs", "internal/cli", "internal/cli/service", "internal/cli/statedir", "relay", "relay/server",
	},
	"internal/cli/service":  {"internal/cli", "internal/sys", "relay/server"},
	"internal/cli/statedir": {"internal/cli", "internal/sys", "node"},
	"internal/disco":        {"key"},
	"internal/egress":       {"internal/safetext"},
	"internal/filter":       {"control"},
	"internal/httpconn":     {},
	"internal/lab":          {},
	"internal/meshaddr":     {},
	"internal/netem":        {},
	"internal/neterr":       {},
	"internal/resolver":     {},
	"internal/safetext":     {},
	"internal/share":        {},
	"internal/simnet":       {},
	"internal/snoop":        {"internal/bbr"},
	"internal/sockowner":    {"internal/sys"},
	"internal/sys":          {},
	"internal/wsstream":     {"internal/httpconn"},
	"key":                   {},
	"node": {
		"control", "internal/egress", "internal/filter", "internal/meshaddr", "internal/neterr", "internal/resolver",
		"internal/share", "internal/sockowner", "internal/sys", "key", "proxy", "relay", "transport", "tuning",
		"userstack", "wireguard",
	},
	"proxy":                    {"internal/neterr", "internal/safetext", "internal/share", "internal/sockowner", "internal/sys", "tuning"},
	"relay":                    {"internal/neterr", "internal/safetext", "internal/wsstream", "key", "relay/internal/derp"},
	"relay/internal/derp":      {"internal/sys", "key"},
	"relay/internal/rawpeer":   {"key", "relay/internal/derp", "relay/internal/relaytest"},
	"relay/internal/relaytest": {"key"},
	"relay/server":             {"internal/share", "internal/wsstream", "key", "relay", "relay/internal/derp"},
	"transport":                {"internal/disco", "internal/meshaddr", "internal/sys", "key"},
	"tuning":                   {"internal/sys"},
	"userstack":                {"internal/snoop", "internal/sys", "tuning"},
	"wireguard":                {"internal/share", "key"},
}

// tests may also import these.
var testsMayImport = map[string][]string{
	"control/policy":          {"internal/filter"},
	"internal/cli/controlcmd": {"key", "node"},
	"internal/snoop":          {"internal/netem"},
	"node":                    {"control/server", "control/store", "relay/server"},
	"relay":                   {"relay/internal/rawpeer", "relay/internal/relaytest", "relay/server"},
	"relay/internal/derp":     {"relay/internal/relaytest"},
	"relay/server":            {"relay/internal/rawpeer", "relay/internal/relaytest"},
	"transport":               {"internal/simnet"},
	"userstack":               {"internal/netem"},
}

// onlyIn lists libraries whose types must not spread.
var onlyIn = map[string][]string{
	"gvisor.dev/gvisor":              {"userstack"},
	"golang.zx2c4.com/wireguard":     {"node", "transport", "wireguard"},
	"github.com/things-go/go-socks5": {"proxy"},
	"github.com/pion/stun":           {"relay/server", "transport"},
	"github.com/miekg/dns":           {"node"},
	"github.com/coder/websocket":     {"control", "internal/wsstream", "relay/server"},
	"golang.org/x/crypto/acme":       {"relay/server"},
	"github.com/spf13": {
		"cmd/ginnel", "internal/cli", "internal/cli/controlcmd", "internal/cli/democmd", "internal/cli/nodeapi",
		"internal/cli/nodecmd", "internal/cli/relaycmd", "internal/cli/service",
	},
	"github.com/goccy/go-yaml":      {"configs"},
	"github.com/flynn/noise":        {"control"},
	"github.com/klauspost/compress": {"control"},
	"github.com/tailscale/hujson":   {"control/policy"},
	"go.etcd.io/bbolt":              {"control/store"},
	"tailscale.com":                 {},
	"github.com/juanfont/headscale": {},
}

// sources calls f with each Go file of the main module.
func sources(t *testing.T, f func(file string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (file == "interop" || file == "bench" || strings.HasPrefix(d.Name(), ".") && file != "."):
			return filepath.SkipDir // other modules; the version control
		case d.IsDir() || filepath.Ext(file) != ".go":
			return nil
		}
		text, err := os.ReadFile(file)
		if err == nil {
			f(filepath.ToSlash(file), text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImports(t *testing.T) {
	module := modulePath(t)
	seen := make(map[string]bool)
	sources(t, func(file string, text []byte) {
		pkg := path.Dir(file)
		seen[pkg] = true
		test := strings.HasSuffix(file, "_test.go")
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if why := forbidden(module, pkg, imported, test); why != "" {
				t.Errorf("%s imports %s: %s", file, imported, why)
			}
		}
	})
	for pkg := range mayImport {
		if !seen[pkg] {
			t.Errorf("package %s is in the table and not in the tree", pkg)
		}
	}
}

// forbidden says why a package of the module may not import a path. It returns "" if it may.
func forbidden(module, pkg, imported string, test bool) string {
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
		if pkg == "internal/lab" && test {
			return "" // it tests the whole
		}
		if test && ours == pkg {
			return "" // a test from outside the package
		}
		allowed, known := mayImport[pkg]
		switch {
		case !known && pkg != ".":
			return "the package is not in the table of deps_test.go"
		case slices.Contains(allowed, ours), test && slices.Contains(testsMayImport[pkg], ours):
			return ""
		}
		return "see the table in deps_test.go"
	}
	for library, pkgs := range onlyIn {
		if imported != library && !strings.HasPrefix(imported, library+"/") {
			continue
		}
		// Tests may hold a package against any library but the reference implementations, which interop
		// has.
		if !slices.Contains(pkgs, pkg) && !(test && len(pkgs) > 0) {
			return "this library is for " + cmp.Or(strings.Join(pkgs, ", "), "the tests in interop")
		}
	}
	return ""
}

func TestFormat(t *testing.T) {
	sources(t, func(file string, text []byte) {
		formatted, err := format.Source(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		} else if !bytes.Equal(formatted, text) {
			t.Errorf("%s is not formatted; run gofmt -w", file)
		}
	})
}

// Files that cannot be held in mind are cut by concern, not by size; this is only the alarm.
func TestFileLength(t *testing.T) {
	const most = 500
	sources(t, func(file string, text []byte) {
		if n := bytes.Count(text, []byte("\n")); n > most && !strings.HasSuffix(file, "_test.go") {
			t.Errorf("%s has %d lines, more than %d", file, n, most)
		}
	})
}
