package main

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"ginnel/configs"
)

// nodeProxy is where a command finds the proxy of a running node.
type nodeProxy struct {
	configs.Address
	auth configs.ProxyAuth // zero: none
}

// proxySchemes are those of a URL that names a node's proxy: its port speaks all of them.
var proxySchemes = []string{"socks5h", "socks5", "http"}

// isProxyURL tells the URL of a proxy from an address to listen at.
func isProxyURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && slices.Contains(proxySchemes, scheme)
}

// parseNodeProxy reads the URL of a proxy, or an address as --proxy of 'ginnel up' takes it.
func parseNodeProxy(s string) (nodeProxy, error) {
	if !isProxyURL(s) {
		a, err := configs.ParseProxyAddr(s)
		return nodeProxy{Address: a}, err
	}
	u, err := url.Parse(s)
	if err != nil || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return nodeProxy{}, errors.New("want socks5h://[USER:PASS@]HOST:PORT") // the error of url.Parse has the password
	}
	a, err := configs.ParseProxyAddr(u.Host)
	password, _ := u.User.Password()
	return nodeProxy{a, configs.ProxyAuth{User: u.User.Username(), Password: password}}, err
}

// parseListener reads where the proxy of a node to start listens.
func parseListener(s string) (configs.Address, error) {
	if isProxyURL(s) {
		return configs.Address{}, errors.New("a URL names the proxy of a running node; one to start wants host:port, :port, port or unix:PATH")
	}
	return configs.ParseProxyAddr(s)
}

func (n nodeProxy) api() *api {
	a := newAPI(n.Network(), n.String(), "")
	a.auth = n.auth
	return a
}

// surroundingNode is the node whose proxy the environment names by a URL: that of the 'ginnel run'
// that this process runs under, or of an 'ginnel up --env'.
func surroundingNode(p program) (*api, bool) {
	value := p.getenv(meshProxyVariable)
	if !isProxyURL(value) {
		return nil, false
	}
	n, err := parseNodeProxy(value)
	if err != nil {
		return nil, false // applySettings has complained
	}
	a := n.api()
	a.where += " (" + meshProxyVariable + ")"
	return a, true
}
