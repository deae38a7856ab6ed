package egress

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// FromEnvironment returns the function that names the proxy for a URL, or nil for none, by the
// rules of net/http: it looks at HTTP_PROXY for http and ws, at HTTPS_PROXY for https and wss, and
// at NO_PROXY for the hosts, domains, addresses and prefixes that need none; names in lower case
// win over those in upper case, and what runs on this machine needs no proxy. As with curl,
// ALL_PROXY stands in for what is not set and serves every other scheme.
//
// Only the URL's scheme and host are looked at. A proxy that is set but cannot be understood is an
// error for every URL it would serve: dialling past it would be a surprise. Changes of the
// environment have no effect later.
func FromEnvironment(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	all := fromVariable(getenv, "all_proxy", "ALL_PROXY")
	web := fromVariable(getenv, "http_proxy", "HTTP_PROXY")
	secure := fromVariable(getenv, "https_proxy", "HTTPS_PROXY")
	if web.name == "" {
		web = all
	} else if getenv("REQUEST_METHOD") != "" {
		web = variable{err: errors.New("HTTP_PROXY is not to be trusted in a CGI program, where a client may set it")}
	}
	if secure.name == "" {
		secure = all
	}
	_, noProxy := firstSet(getenv, "no_proxy", "NO_PROXY")
	serves := (&httpproxy.Config{HTTPProxy: "proxy.invalid", HTTPSProxy: "proxy.invalid", NoProxy: noProxy}).ProxyFunc()

	return func(u *url.URL) (*url.URL, error) {
		chosen, scheme := all, "https"
		switch u.Scheme {
		case "http", "ws":
			chosen, scheme = web, "http"
		case "https", "wss":
			chosen = secure
		}
		if served, err := serves(&url.URL{Scheme: scheme, Host: u.Host}); served == nil || err != nil {
			return nil, err
		}
		return chosen.proxy, chosen.err
	}
}

// variable is what one variable of the environment says.
type variable struct {
	name  string // empty if it is not set
	proxy *url.URL
	err   error
}

// fromVariable reads a proxy: a URL, or host:port of an HTTP proxy. Its error keeps the value,
// which may hold a password, to itself.
func fromVariable(getenv func(string) string, names ...string) variable {
	name, value := firstSet(getenv, names...)
	if name == "" {
		return variable{}
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	proxy, err := url.Parse(value)
	if err != nil || proxy.Hostname() == "" {
		return variable{name: name, err: fmt.Errorf("reading %s: it is neither a URL nor host:port of a proxy", name)}
	}
	if _, ok := protocols[proxy.Scheme]; !ok {
		return variable{name: name, err: fmt.Errorf("reading %s: proxy %s: %w", name, proxyName(proxy), errScheme)}
	}
	return variable{name: name, proxy: proxy}
}

func firstSet(getenv func(string) string, names ...string) (name, value string) {
	for _, name := range names {
		if value := getenv(name); value != "" {
			return name, value
		}
	}
	return "", ""
}
