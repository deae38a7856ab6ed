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
// each other: only node puts them together, and the command puts node together with what users
// write.
var mayImport = map[string][]string{
	"cmd/ginnel": {
		"configs", "control", "control/policy", "control/server", "control/store", "internal/egress", "internal/key",
		"internal/meshaddr", "internal/sys", "node", "relay", "relay/server", "tuning",
	},
	"configs":        {"internal/key", "internal/safetext"},
	"control":        {"internal/httpconn", "internal/key", "internal/neterr", "internal/safetext", "internal/wsstream"},
	"control/policy": {"control", "internal/meshaddr"},
	"control/server": {
		"control", "control/policy", "control/store", "internal/key", "internal/meshaddr", "internal/share",
	},
	"control/store":      {},
	"internal/bbr":       {},
	"internal/disco":     {"internal/key"},
	"internal/egress":    {"internal/safetext"},
	"internal/filter":    {"control"},
	"internal/httpconn":  {},
	"internal/key":       {},
	"internal/lab":       {},
	"internal/meshaddr":  {},
	"internal/netem":     {},
	"internal/neterr":    {},
	"internal/resolver":  {},
	"internal/safetext":  {},
	"internal/share":     {},
	"internal/simnet":    {},
	"internal/snoop":     {"internal/bbr"},
	"internal/sockowner": {"internal/sys"},
	"internal/sys":       {},
	"internal/wsstream":  {"internal/httpconn"},
	"node": {
		"control", "internal/egress", "internal/filter", "internal/key", "internal/meshaddr", "internal/neterr",
		"internal/resolver", "internal/share", "internal/sockowner", "internal/sys", "proxy", "relay", "transport",
		"tuning", "userstack", "wireguard",
	},
	"proxy":                    {"internal/neterr", "internal/safetext", "internal/share", "internal/sockowner", "internal/sys", "tuning"},
	"relay":                    {"internal/key", "internal/neterr", "internal/safetext", "internal/wsstream", "relay/internal/derp"},
	"relay/internal/derp":      {"internal/key", "internal/sys"},
	"relay/internal/rawpeer":   {"internal/key", "relay/internal/derp", "relay/internal/relaytest"},
	"relay/internal/relaytest": {"internal/key"},
	"relay/server":             {"internal/key", "internal/share", "internal/wsstream", "relay", "relay/internal/derp"},
	"transport":                {"internal/disco", "internal/key", "internal/meshaddr", "internal/sys"},
	"tuning":                   {"internal/sys"},
	"userstack":                {"internal/snoop", "internal/sys", "tuning"},
	"wireguard":                {"internal/key", "internal/share"},
}

// tests may also import these.
var testsMayImport = map[string][]string{
	"control/policy":      {"internal/filter"},
	"internal/snoop":      {"internal/netem"},
	"node":                {"control/server", "control/store", "relay/server"},
	"relay":               {"relay/internal/rawpeer", "relay/internal/relaytest", "relay/server"},
	"relay/internal/derp": {"relay/internal/relaytest"},
	"relay/server":        {"relay/internal/rawpeer", "relay/internal/relaytest"},
	"transport":           {"internal/simnet"},
	"userstack":           {"internal/netem"},
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
	"github.com/spf13":               {"cmd/ginnel"},
	"github.com/goccy/go-yaml":       {"configs"},
	"github.com/flynn/noise":         {"control"},
	"github.com/klauspost/compress":  {"control"},
	"github.com/tailscale/hujson":    {"control/policy"},
	"go.etcd.io/bbolt":               {"control/store"},
	"tailscale.com":                  {},
	"github.com/juanfont/headscale":  {},
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
			if why := forbidden(pkg, imported, test); why != "" {
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

// forbidden says why pkg may not import a path; it is empty if it may.
func forbidden(pkg, imported string, test bool) string {
	if ours, ok := strings.CutPrefix(imported, "ginnel/"); ok {
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
