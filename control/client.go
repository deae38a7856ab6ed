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

	"ginnel/internal/key"
)

const (
	// requestTimeout bounds requests that a server answers at once.
	requestTimeout = time.Minute
	// A channel that is silent is asked for a sign of life, and given up if there is none.
	channelIdle  = 30 * time.Second
	channelPing  = 15 * time.Second
	maxH2Headers = 64 << 10
)

// ClientConfig configures a Client.
type ClientConfig struct {
	URL        string             // of the server, http or https; required
	MachineKey key.MachinePrivate // required
	// ServerKey is the server's key if it is known: no other is accepted then. Zero: the server is
	// asked once, over HTTPS, or over HTTP if the URL names a loopback or private address.
	ServerKey key.MachinePublic

	// DialContext makes TCP connections; nil: net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS         *tls.Config // nil: the system's authorities; ServerName and NextProtos are set here

	// Ping measures what the server wants to know of the way to ip: disco, TSMP, ICMP or peerapi. Nil:
	// nothing can be.
	Ping func(ctx context.Context, kind string, ip netip.Addr) PingResponse

	Version string       // of the program; empty: not told
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

// Client is a node's end of the conversation with a coordination server. It opens a channel when
// one is needed and keeps it; all requests share it. Methods may be called concurrently.
type Client struct {
	cfg ClientConfig
	log *slog.Logger
	url *url.URL
	web *http.Client // outside of channels
	wg  sync.WaitGroup

	dialc chan struct{} // has room for the one that dials
	calls calls
	pings pingLimit

	mu      sync.Mutex
	channel *channel          // nil: none is open
	server  key.MachinePublic // zero: not yet known
}

// NewClient returns a client that has said nothing yet.
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
	c.web = &http.Client{CheckRedirect: noRedirect, Transport: &http.Transport{DialContext: c.dialTCP, DialTLSContext: c.dialTLS,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxH2Headers}}
	return c, nil
}

// ErrUnprotected is a configuration by which anybody on the way could pass for the server: its key
// is not known, and would be asked for over plain HTTP, across networks that others use.
var ErrUnprotected = errors.New("nothing protects the server's key on the way: https is wanted, or the key itself")

// CheckServer says what NewClient would have against a server by its URL and its key, zero if that
// is not known.
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

// serverURL reads a URL that has a scheme and a host only (section 1.1).
func serverURL(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("control: reading the server's URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("control: server's URL begins with neither https:// nor http://: %q", text)
	case u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("control: server's URL is more or less than a scheme, a host and a port: %q", u.Redacted())
	}
	return u, nil
}

// private reports whether host is one that plain HTTP is good enough for (section 1.2).
func private(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast())
}

// Close ends the channel and every call.
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

// calls ends the contexts of calls when a client is closed.
type calls struct {
	mu     sync.Mutex
	closed bool
	next   int
	funcs  map[int]context.CancelCauseFunc
}

// begin returns a context that ends with ctx, by release, or with the client.
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
		cancel(errClosed) // only marks the context; nothing waits
	}
	clear(c.funcs)
}
