package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"ginnel/key"
)

const (
	// requestTimeout bounds requests that a server answers without waiting for a person.
	requestTimeout = time.Minute
	// After channelIdle without a frame from the server, the client sends an HTTP/2 PING. Without an
	// answer within channelPing it closes the channel.
	channelIdle  = 30 * time.Second
	channelPing  = 15 * time.Second
	maxH2Headers = 64 << 10 // bytes
)

// ClientConfig configures a Client.
type ClientConfig struct {
	URL        string             // of the server, http or https; required
	MachineKey key.MachinePrivate // required
	// ServerKey pins the server's key: no other key is accepted. Zero: the server is asked for it
	// once, over HTTPS, or over HTTP if the URL names a loopback or private address.
	ServerKey key.MachinePublic

	// DialContext makes TCP connections; nil: that of a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS         *tls.Config // nil: the system's authorities; the Client sets ServerName and NextProtos

	// Ping pings the peer at ip when the server asks for it; kind is disco, TSMP, ICMP or peerapi.
	// Nil: every such request is answered with "not supported".
	Ping func(ctx context.Context, kind string, ip netip.Addr) PingResponse

	Version string       // of the program, for the User-Agent; empty: none
	Log     *slog.Logger // nil: nothing is logged
}

func (c *ClientConfig) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

func (c *ClientConfig) userAgent() string {
	if c.Version == "" {
		return "ginnel"
	}
	return "ginnel/" + c.Version
}

func (c *ClientConfig) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.DialContext == nil {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return c.DialContext(ctx, network, addr)
}

// Client is a node's end of the protocol. It opens a channel at the first request and keeps it; all
// requests share it. Methods may be called concurrently.
type Client struct {
	cfg ClientConfig
	log *slog.Logger
	url *url.URL
	web *http.Client // for requests outside the channel
	wg  sync.WaitGroup

	dialc chan struct{} // a semaphore of one: its holder opens the channel
	calls calls
	pings pingLimit

	mu      sync.Mutex
	channel *channel          // nil: none is open
	server  key.MachinePublic // zero: not yet known
}

// NewClient returns a client. It sends nothing to the server yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	u, err := serverURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.MachineKey.IsZero() {
		return nil, errors.New("control: client has no machine key")
	}
	if err := checkProtected(u, cfg.ServerKey); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, log: cfg.log(), url: u, dialc: make(chan struct{}, 1), server: cfg.ServerKey}
	c.web = &http.Client{CheckRedirect: noRedirect, Transport: &http.Transport{
		DialContext: c.dialTCP, DialTLSContext: c.dialTLS,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxH2Headers,
	}}
	return c, nil
}

// ErrUnprotected: the configuration would let anybody on the network path impersonate the server,
// because the server's key is not pinned and would be fetched over plain HTTP from a public
// address.
var ErrUnprotected = errors.New("nothing protects the server's key on the way: use https, or pin the key")

// CheckServer returns the error that NewClient would return for a server with this URL and key; a
// zero key is one that is not known.
func CheckServer(text string, k key.MachinePublic) error {
	u, err := serverURL(text)
	if err != nil {
		return err
	}
	return checkProtected(u, k)
}

func checkProtected(u *url.URL, k key.MachinePublic) error {
	if k.IsZero() && u.Scheme == "http" && !private(u.Hostname()) {
		return fmt.Errorf("control: %s: %w", u, ErrUnprotected)
	}
	return nil
}

// serverURL parses a URL of only a scheme, a host and perhaps a port (section 1.1).
func serverURL(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("control: parsing the server URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("control: server URL must begin with https:// or http://: %q", text)
	case u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("control: server URL must be scheme://host[:port], without a path: %q", u.Redacted())
	}
	return u, nil
}

// private reports whether plain HTTP to host is allowed without a pinned key (section 1.2).
func private(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast())
}

// Close closes the channel and ends every call with an error that wraps net.ErrClosed.
func (c *Client) Close() error {
	c.calls.close()
	c.mu.Lock()
	ch := c.channel
	c.channel = nil
	c.mu.Unlock()
	if ch != nil {
		ch.close()
	}
	c.wg.Wait()
	return nil
}

// calls holds the contexts of running calls, so that Close can cancel them.
type calls struct {
	mu     sync.Mutex
	closed bool
	next   int
	funcs  map[int]context.CancelCauseFunc
}

// begin returns a context that ends when ctx ends, when release is called or when the client is
// closed.
func (c *calls) begin(ctx context.Context) (_ context.Context, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed
	}
	if c.funcs == nil {
		c.funcs = make(map[int]context.CancelCauseFunc)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	id := c.next
	c.next++
	c.funcs[id] = cancel
	return ctx, func() { c.remove(id); cancel(nil) }, nil
}

func (c *calls) remove(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.funcs, id)
}

// start runs f in wg unless the client is closed.
func (c *calls) start(wg *sync.WaitGroup, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		wg.Go(f)
	}
	return !c.closed
}

func (c *calls) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, cancel := range c.funcs {
		cancel(errClosed) // does not block
	}
	clear(c.funcs)
}
