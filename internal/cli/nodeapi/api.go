package nodeapi

import (
	"context"
	"crypto/rand"
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
	"ginnel/internal/cli"
	"ginnel/internal/cli/statedir"
	"ginnel/node"
)

// Flags say which running node a command means.
type Flags struct {
	config  string
	state   string
	proxies cli.List[nodeProxy]
	byProxy *pflag.Flag
}

// Add adds the flags to a command.
func (f *Flags) Add(fs *pflag.FlagSet) {
	f.proxies = cli.List[nodeProxy]{Parse: parseNodeProxy}
	fs.StringVar(&f.config, "config", "", "YAML `file` with settings, as for 'ginnel up'")
	fs.StringVar(&f.state, "state", "", "state `dir`ectory of the node, as for 'ginnel up'")
	fs.Var(&f.proxies, "proxy", "`addr`ess or URL of the node's proxy, instead of its state directory")
	f.byProxy = fs.Lookup("proxy")
}

// Open finds the running node. It takes the first of these that is given: the proxy on the command
// line, the state directory, the URL of a proxy in the environment (which 'ginnel run' and 'ginnel
// up --env' set), the node in the default state directory, and the first proxy of the settings. The
// last may be meant for 'ginnel up', which is why it comes last.
func (f *Flags) Open(p cli.Program) (*Client, error) {
	if cli.GivenOnCommandLine(f.byProxy) {
		return f.proxies.Values[0].api(), nil
	}
	dir := f.state
	if dir == "" {
		if a, ok := surroundingNode(p); ok {
			return a, nil
		}
		dir = statedir.Default(p)
	}
	r, err := statedir.FindRunning(dir)
	if err != nil {
		if f.state == "" && len(f.proxies.Values) > 0 {
			return f.proxies.Values[0].api(), nil
		}
		return nil, err
	}
	network, addr := cli.HostPort(r.Proxies[0])
	return New(network, addr, r.Token), nil
}

// Client speaks with a running node over its proxy port.
type Client struct {
	client *http.Client
	dial   func(ctx context.Context) (net.Conn, error)
	where  string // for errors
	token  string
	auth   configs.ProxyAuth // for the proxy, if it wants one
}

// New returns a client of the node whose proxy listens at addr. token is the one of its state
// directory, or empty if it is not known.
func New(network, addr, token string) *Client {
	dial := func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, addr) }
	a := &Client{where: addr, token: token, dial: dial}
	if token != "" {
		a.auth = configs.ProxyAuth{User: ProxyUser, Password: token}
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx) }}
	a.client = &http.Client{Transport: tr}
	return a
}

// whyGrace is how much longer than its attempts the answer of the node may take.
const whyGrace = 5 * time.Second

// Call makes a request and decodes the answer into out.
func (a *Client) Call(ctx context.Context, method, path string, form url.Values, out any) error {
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

// Error is an answer of the node that refuses a request.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

func (a *Client) refusal(resp *http.Response, body []byte) error {
	var e struct{ Error string }
	switch {
	case json.Unmarshal(body, &e) == nil && e.Error != "":
		return &Error{resp.StatusCode, e.Error}
	case resp.StatusCode == http.StatusProxyAuthRequired, resp.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("asking the node at %s: its proxy wants a password; use its state directory on that machine",
			a.where)
	}
	return fmt.Errorf("asking the node at %s: %s", a.where, resp.Status)
}

// ProxyUser is the user name that commands give to a proxy that wants a password. The password is
// the token of the API.
const ProxyUser = "ginnel-token"

// NewToken makes a token for the API.
func NewToken() string { return rand.Text() }

// Why asks the node for its verdict about target. patience is for the attempts that the node makes.
func (a *Client) Why(ctx context.Context, target string, patience time.Duration) (*node.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, patience+whyGrace)
	defer cancel()
	v := new(node.Verdict)
	form := url.Values{"target": {target}, "timeout": {patience.String()}}
	return v, a.Call(ctx, http.MethodPost, "/api/v1/why", form, v)
}
