package nodeapi

import (
	"errors"
	"net/url"
	"strings"

	"ginnel/configs"
	"ginnel/internal/cli"
)

// nodeProxy is the address of the proxy of a running node, with its password.
type nodeProxy struct {
	configs.Address
	auth configs.ProxyAuth // zero: none
}

// parseNodeProxy reads the URL of a proxy, or an address as --proxy of 'ginnel up' takes it.
func parseNodeProxy(s string) (nodeProxy, error) {
	if !cli.IsProxyURL(s) {
		a, err := configs.ParseProxyAddr(s)
		return nodeProxy{Address: a}, err
	}
	u, err := url.Parse(s)
	if err != nil || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return nodeProxy{}, errors.New("want socks5h://[USER:PASS@]HOST:PORT") // not the error of url.Parse, which quotes the password
	}
	a, err := configs.ParseProxyAddr(u.Host)
	password, _ := u.User.Password()
	return nodeProxy{a, configs.ProxyAuth{User: u.User.Username(), Password: password}}, err
}

func (n nodeProxy) api() *Client {
	a := New(n.Network(), n.String(), "")
	a.auth = n.auth
	return a
}

// surroundingNode returns the node whose proxy has its URL in the environment: the node of the
// 'ginnel run' that this process runs in, or of an 'ginnel up --env'.
func surroundingNode(p cli.Program) (*Client, bool) {
	value := p.Getenv(cli.MeshProxyVariable)
	if !cli.IsProxyURL(value) {
		return nil, false
	}
	n, err := parseNodeProxy(value)
	if err != nil {
		return nil, false // cli.ApplySettings has reported it
	}
	a := n.api()
	a.where += " (" + cli.MeshProxyVariable + ")"
	return a, true
}
