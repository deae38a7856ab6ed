package egress

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// FromEnvironment returns a function that returns the proxy for a URL, or nil if the URL needs
// none. The environment is read once, by the rules of net/http:
//
//   - HTTP_PROXY is used for http and ws, HTTPS_PROXY for https and wss.
//   - NO_PROXY lists hosts, domains, addresses and prefixes that need no proxy. Hosts on loopback
//     never need one.
//   - A variable in lower case takes precedence over the same one in upper case.
//   - As with curl, ALL_PROXY replaces a variable that is not set, and is used for all other
//     schemes.
//
// Only the URL's scheme and host matter. A variable that is set but is not a usable proxy is an
// error for every URL that it applies to, because a direct dial would bypass a proxy that was
// wanted.
func FromEnvironment(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	all := fromVariable(getenv, "all_proxy", "ALL_PROXY")
	web := fromVariable(getenv, "http_proxy", "HTTP_PROXY")
	secure := fromVariable(getenv, "https_proxy", "HTTPS_PROXY")
	if web.name == "" {
		web = all
	} else if getenv("REQUEST_METHOD") != "" {
		web = variable{err: errors.New("HTTP_PROXY cannot be trusted in a CGI program, where a client may set it")}
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

// variable is one variable of the environment, read as a proxy.
type variable struct {
	name  string // empty if it is not set
	proxy *url.URL
	err   error
}

// fromVariable reads the first variable of names that is set: a URL, or host:port of an HTTP proxy.
// Its error does not repeat the value, which may contain a password.
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
