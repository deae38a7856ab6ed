package node

import (
	"net/url"
	"sync"
	"testing"
)

// A server with an http:// URL is reached through the proxy of HTTP_PROXY, not of HTTPS_PROXY.
func TestControlProxyIsChosenByTheURL(t *testing.T) {
	n := newNetwork(t)
	var mu sync.Mutex
	schemes := make(map[string]bool)
	server, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	a := n.join("alpha", func(c *Config) {
		c.OutboundProxy = func(u *url.URL) (*url.URL, error) {
			mu.Lock()
			defer mu.Unlock()
			if u.Host == server.Host {
				schemes[u.Scheme] = true
			}
			return nil, nil
		}
	})
	eventually(t, "running", func() bool { return a.Status().State == StateRunning })
	mu.Lock()
	defer mu.Unlock()
	if !schemes[server.Scheme] || len(schemes) != 1 {
		t.Errorf("the proxy for %s was asked for by the schemes %v", n.url, schemes)
	}
}
