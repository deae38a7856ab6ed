package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"ginnel/configs"
)

// The environment by which programs find a proxy.

// noProxy is what programs are to reach without it, besides what the environment says already.
var noProxy = []string{"localhost", "127.0.0.1", "::1"}

// variable is one of the environment.
type variable struct{ name, value string }

// proxyVariables are for a proxy at host:port. Some programs read the names in small letters, some in
// capitals. What p's environment exempts from proxies stays exempt: hosts of a CI system, say.
func proxyVariables(hostPort string, auth configs.ProxyAuth, p program) (vars []variable) {
	for _, v := range []variable{
		{"http_proxy", proxyURL("http", hostPort, auth)},
		{"https_proxy", proxyURL("http", hostPort, auth)},
		{"all_proxy", proxyURL("socks5h", hostPort, auth)},
		{"no_proxy", strings.Join(exempt(p), ",")},
	} {
		vars = append(vars, v, variable{strings.ToUpper(v.name), v.value})
	}
	return vars
}

// exempt lists what is reached without a proxy: the entries of both spellings, and noProxy. Entries are
// separated by commas or spaces, and some programs know only commas.
func exempt(p program) (entries []string) {
	seen := make(map[string]bool)
	for _, list := range []string{p.getenv("no_proxy"), p.getenv("NO_PROXY"), strings.Join(noProxy, ",")} {
		for _, e := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r <= ' ' || r == 0x7f }) {
			if !seen[e] {
				seen[e] = true
				entries = append(entries, e)
			}
		}
	}
	return entries
}

// proxyURL holds nothing that a shell or an env file would take for its own.
func proxyURL(scheme, hostPort string, auth configs.ProxyAuth) string {
	if auth == (configs.ProxyAuth{}) {
		return scheme + "://" + hostPort
	}
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	return fmt.Sprintf("%s://%s:%s@%s", scheme, escape(auth.User), escape(auth.Password), hostPort)
}

// reachableProxy is the first of a node's proxies that those variables can name, as this machine reaches it.
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

// envFormat is how --env prints them.
type envFormat string

const (
	envShell  envFormat = "sh"
	envDotenv envFormat = "dotenv"
	envGitHub envFormat = "github"
)

func parseEnvFormat(s string) (envFormat, error) {
	switch f := envFormat(s); f {
	case envShell, envDotenv, envGitHub:
		return f, nil
	}
	return "", fmt.Errorf("%q is not a format: sh, dotenv or github is", s)
}

func (f envFormat) print(w io.Writer, vars []variable) error {
	line := "%s=%s\n"
	if f == envShell {
		line = "export %s='%s'\n"
	}
	for _, v := range vars {
		value := v.value
		if f == envShell {
			value = strings.ReplaceAll(value, "'", `'\''`)
		}
		if _, err := fmt.Fprintf(w, line, v.name, value); err != nil {
			return err
		}
	}
	return nil
}
