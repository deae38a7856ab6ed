package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"ginnel/configs"
)

// The environment by which programs find the proxy. The port speaks HTTP and SOCKS; each variable
// has the form that all programs that read it understand.

// noProxy is what programs are to reach without it, besides what the environment says already.
var noProxy = []string{"localhost", "127.0.0.1", "::1"}

// meshProxyVariable names the proxy for what speaks SOCKS, and the node for the commands of this
// program. The flag --proxy of up and run has the same name in the environment; isProxyURL tells
// the two apart.
const meshProxyVariable = envPrefix + "PROXY"

// variable is one of the environment.
type variable struct{ name, value string }

// proxyAccess is how programs reach a proxy.
type proxyAccess struct {
	hostPort string
	auth     configs.ProxyAuth // zero: it asks for no password
	open     string            // host:port of another that asks this user for none; empty: there is no such
}

// withoutPassword returns host:port for programs that cannot give a password, or ok false.
func (a proxyAccess) withoutPassword() (hostPort string, ok bool) {
	if a.auth == (configs.ProxyAuth{}) {
		return a.hostPort, true
	}
	return a.open, a.open != ""
}

// proxyVariables lead programs to a proxy. Some programs read the names in small letters, some in
// capitals. What p's environment exempts from proxies stays exempt: hosts of a CI system, say.
func proxyVariables(a proxyAccess, p program) (vars []variable) {
	web, direct := proxyURL("http", a.hostPort, a.auth), exempt(p)
	for _, v := range []variable{
		{"http_proxy", web},
		{"https_proxy", web},
		{"all_proxy", web}, // not socks5h://, with which httpx and others cannot even construct a client
		{"grpc_proxy", web},
		{"no_proxy", strings.Join(direct, ",")},
	} {
		vars = append(vars, v, variable{strings.ToUpper(v.name), v.value})
	}
	vars = append(vars,
		variable{"npm_config_proxy", web}, // a file .npmrc wins over HTTP_PROXY, but not over these
		variable{"npm_config_https_proxy", web},
		variable{"npm_config_noproxy", strings.Join(merged(splitExempt(p.getenv("npm_config_noproxy")), direct), ",")},
		variable{"NODE_USE_ENV_PROXY", "1"}, // Node.js from 22.21 and 24 on reads the others only with this
		variable{meshProxyVariable, proxyURL("socks5h", a.hostPort, a.auth)},
	)
	if v, ok := gitSSH(p); ok {
		vars = append(vars, v)
	}
	if v, ok := javaOptions(a, direct, p); ok {
		vars = append(vars, v)
	}
	return vars
}

// exempt lists what is reached without a proxy: the entries of both spellings, and noProxy. Entries
// are separated by commas or spaces, and some programs know only commas.
func exempt(p program) []string {
	return merged(splitExempt(p.getenv("no_proxy")), splitExempt(p.getenv("NO_PROXY")), noProxy)
}

// isExempt reports whether target, host:port, is reached without a proxy, by the rules of net/http:
// what is on this machine is, too.
func isExempt(p program, target string) bool {
	const proxy = "proxy.invalid"
	cfg := httpproxy.Config{HTTPSProxy: proxy, NoProxy: strings.Join(exempt(p), ",")}
	through, err := cfg.ProxyFunc()(&url.URL{Scheme: "https", Host: target})
	return err == nil && through == nil
}

func splitExempt(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r <= ' ' || r == 0x7f })
}

// merged joins lists and leaves out what has been there before.
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

// proxyURL holds nothing that a shell or an env file would take for its own.
func proxyURL(scheme, hostPort string, auth configs.ProxyAuth) string {
	if auth == (configs.ProxyAuth{}) {
		return scheme + "://" + hostPort
	}
	return fmt.Sprintf("%s://%s:%s@%s", scheme, urlEscape(auth.User), urlEscape(auth.Password), hostPort)
}

func urlEscape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// reachableProxy is the first of a node's proxies that those variables can name, as this machine
// reaches it.
func reachableProxy(proxies []string) (addr string, ok bool) {
	for _, text := range proxies {
		network, addr := hostPort(text)
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

// withVariables replaces variables in an environment.
func withVariables(environ []string, vars []variable) []string {
	replaced := make(map[string]bool)
	for _, v := range vars {
		replaced[v.name] = true
	}
	var out []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); !replaced[name] {
			out = append(out, kv)
		}
	}
	for _, v := range vars {
		out = append(out, v.name+"="+v.value)
	}
	return out
}
