package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ginnel/configs"
)

// apiFlags say which running node a command means.
type apiFlags struct {
	config  string
	state   string
	proxies parsedList[nodeProxy]
	byProxy *pflag.Flag
}

func (f *apiFlags) add(fs *pflag.FlagSet) {
	f.proxies = parsedList[nodeProxy]{parse: parseNodeProxy}
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings, as for 'ginnel up'")
	fs.StringVar(&f.state, "state", "", "state `dir`ectory of the node, as for 'ginnel up'")
	fs.Var(&f.proxies, "proxy", "`addr`ess or URL of the node's proxy, instead of its state directory")
	f.byProxy = fs.Lookup("proxy")
}

// open finds the node: by the proxy that was named here, by the state directory that was named, by
// the URL of a proxy in the environment, as 'ginnel run' and 'ginnel up --env' set it, by the usual
// state directory, or by a proxy that is set elsewhere, since that setting is there for the node
// and may be a list.
func (f *apiFlags) open(p program) (*api, error) {
	if givenOnCommandLine(f.byProxy) {
		return f.proxies.values[0].api(), nil
	}
	dir := f.state
	if dir == "" {
		if a, ok := surroundingNode(p); ok {
			return a, nil
		}
		dir = defaultState(p)
	}
	r, err := findRunning(dir)
	if err != nil {
		if f.state == "" && len(f.proxies.values) > 0 {
			return f.proxies.values[0].api(), nil
		}
		return nil, err
	}
	network, addr := hostPort(r.Proxies[0])
	return newAPI(network, addr, r.Token), nil
}

// api speaks with a running node over its proxy port.
type api struct {
	client *http.Client
	dial   func(ctx context.Context) (net.Conn, error)
	where  string // for errors
	token  string
	auth   configs.ProxyAuth // for the proxy, if it wants one
}

func newAPI(network, addr, token string) *api {
	var d net.Dialer
	a := &api{where: addr, token: token, dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, addr) }}
	if token != "" {
		a.auth = configs.ProxyAuth{User: tokenUser, Password: token}
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx) }}
	a.client = &http.Client{Transport: tr}
	return a
}

// call makes a request and decodes the answer into out.
func (a *api) call(ctx context.Context, method, path string, form url.Values, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	} else if a.auth != (configs.ProxyAuth{}) {
		req.SetBasicAuth(a.auth.User, a.auth.Password)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("asking the node at %s: %w", a.where, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("asking the node at %s: %w", a.where, err)
	}
	if resp.StatusCode != http.StatusOK {
		return a.refusal(resp, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("asking the node at %s: what answers there is not a ginnel node", a.where)
	}
	return nil
}

// nodeError is what the node itself answered.
type nodeError struct {
	status int
	text   string
}

func (e *nodeError) Error() string { return e.text }

func (a *api) refusal(resp *http.Response, body []byte) error {
	var e struct{ Error string }
	switch {
	case json.Unmarshal(body, &e) == nil && e.Error != "":
		return &nodeError{resp.StatusCode, e.Error}
	case resp.StatusCode == http.StatusProxyAuthRequired, resp.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("asking the node at %s: its proxy wants a password; use its state directory on that machine", a.where)
	}
	return fmt.Errorf("asking the node at %s: %s", a.where, resp.Status)
}

// sleep waits unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
