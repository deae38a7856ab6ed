package proxyenv

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"ginnel/configs"
	"ginnel/internal/cli"
)

// noProxy are the hosts of this machine, which programs reach without the proxy.
var noProxy = []string{"localhost", "127.0.0.1", "::1"}

// Variable is an environment variable.
type Variable struct{ Name, Value string }

// Access is how programs reach the proxy of a node, whose port speaks HTTP and SOCKS.
type Access struct {
	HostPort string
	Auth     configs.ProxyAuth // zero: the proxy wants no password
	Open     string            // host:port of a second proxy that wants no password from this user; empty: there is none
}

// withoutPassword returns host:port of a proxy for programs that cannot give a password. ok is
// false if there is none.
func (a Access) withoutPassword() (hostPort string, ok bool) {
	if a.Auth == (configs.ProxyAuth{}) {
		return a.HostPort, true
	}
	return a.Open, a.Open != ""
}

// Variables returns the variables that lead programs to a proxy. Some programs read the names in
// small letters, some in capitals. Hosts that p's environment exempts from proxies stay exempt.
func Variables(a Access, p cli.Program) (vars []Variable) {
	web, direct := proxyURL("http", a.HostPort, a.Auth), exempt(p)
	for _, v := range []Variable{
		{"http_proxy", web},
		{"https_proxy", web},
		{"all_proxy", web}, // httpx and others fail at once with socks5h://
		{"grpc_proxy", web},
		{"no_proxy", strings.Join(direct, ",")},
	} {
		vars = append(vars, v, Variable{strings.ToUpper(v.Name), v.Value})
	}
	vars = append(vars,
		Variable{"npm_config_proxy", web}, // .npmrc overrides HTTP_PROXY, but not these
		Variable{"npm_config_https_proxy", web},
		Variable{"npm_config_noproxy", strings.Join(merged(splitExempt(p.Getenv("npm_config_noproxy")), direct), ",")},
		Variable{"NODE_USE_ENV_PROXY", "1"}, // Node.js since 22.21 and 24 reads the others only with this
		Variable{cli.MeshProxyVariable, proxyURL("socks5h", a.HostPort, a.Auth)},
	)
	if v, ok := gitSSH(p); ok {
		vars = append(vars, v)
	}
	if v, ok := javaOptions(a, direct, p); ok {
		vars = append(vars, v)
	}
	return vars
}

// exempt lists the hosts that are reached without a proxy: those of no_proxy, of NO_PROXY and of
// noProxy. Entries are separated by commas or spaces; some programs know only commas.
func exempt(p cli.Program) []string {
	return merged(splitExempt(p.Getenv("no_proxy")), splitExempt(p.Getenv("NO_PROXY")), noProxy)
}

// IsExempt reports whether target, host:port, is reached without a proxy. The rules are those of
// net/http, for which this machine is always exempt.
func IsExempt(p cli.Program, target string) bool {
	const proxy = "proxy.invalid"
	cfg := httpproxy.Config{HTTPSProxy: proxy, NoProxy: strings.Join(exempt(p), ",")}
	through, err := cfg.ProxyFunc()(&url.URL{Scheme: "https", Host: target})
	return err == nil && through == nil
}

func splitExempt(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r <= ' ' || r == 0x7f })
}

// merged joins lists without duplicates.
func merged(lists ...[]string) (entries []string) {
	seen := make(map[string]bool)
	for _, e := range slices.Concat(lists...) {
		if !seen[e] {
			seen[e] = true
			entries = append(entries, e)
		}
	}
	return entries
}

// proxyURL returns a URL without characters that mean something to a shell or in an env file.
func proxyURL(scheme, hostPort string, auth configs.ProxyAuth) string {
	if auth == (configs.ProxyAuth{}) {
		return scheme + "://" + hostPort
	}
	return fmt.Sprintf("%s://%s:%s@%s", scheme, urlEscape(auth.User), urlEscape(auth.Password), hostPort)
}

func urlEscape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// Reachable returns the first TCP proxy of a node, as host:port by which this machine reaches it.
func Reachable(proxies []string) (addr string, ok bool) {
	for _, text := range proxies {
		network, addr := cli.HostPort(text)
		if network != "tcp" {
			continue
		}
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return addr, true
		}
		switch a := ap.Addr(); {
		case a.IsUnspecified() && a.Is4():
			return net.JoinHostPort("127.0.0.1", fmt.Sprint(ap.Port())), true
		case a.IsUnspecified():
			return net.JoinHostPort("localhost", fmt.Sprint(ap.Port())), true
		}
		return addr, true
	}
	return "", false
}

// With returns environ with vars in place of the variables of the same names.
func With(environ []string, vars []Variable) []string {
	replaced := make(map[string]bool)
	for _, v := range vars {
		replaced[v.Name] = true
	}
	var out []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); !replaced[name] {
			out = append(out, kv)
		}
	}
	for _, v := range vars {
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}
