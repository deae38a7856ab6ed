package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
)

const (
	defaultWriteTimeout = 2 * time.Second
	meshWriteTimeout    = 30 * time.Second
	defaultMaxClients   = 60_000
	defaultQueueMemory  = 256 << 20
	// minRateBurst lets the largest frame pass a rate limit (4.7).
	minRateBurst = key.Size + derp.MaxPacket
	// requestTimeout bounds the TLS handshake, and again the HTTP request. Clients give up after 10
	// s.
	requestTimeout = 15 * time.Second
	// restartSpread is how much later, on average, each connected client is asked to come back
	// after a restart. It is about the time that one core needs for a login.
	restartSpread = time.Millisecond
	maxRestart    = 10 * time.Second
	restartTryFor = 5 * time.Second
)

// serverLimits bounds the queue to a client: a burst of each sender, the bursts of several senders
// at once, and no packet so old that the TCP inside has sent it again.
var serverLimits = derp.QueueLimits{
	Flow: [derp.NumClasses]int{
		derp.ClassData: 256 << 10, derp.ClassDisco: 16 << 10,
		derp.ClassControl: 32 << 10, derp.ClassPong: derp.PongFrameSize,
	},
	Total:  1 << 20,
	MaxAge: time.Second,
}

// Config configures a [Server]. Only Key is required.
type Config struct {
	// Key identifies the server to clients and to the other servers of its mesh; see [LoadKey].
	Key key.NodePrivate
	// MeshKey is shared by the servers of a region. Zero means that this server has no mesh (5.1).
	MeshKey relay.MeshKey
	// Log gets connections and failures; nil discards them.
	Log *slog.Logger

	// MaxClients bounds the open DERP connections; 0 means 60000, negative means no bound. When the
	// relay is full, the oldest connection of the address that has the most ends in favour of an
	// address that has fewer. Other new connections get 503.
	MaxClients int
	// AcceptRate bounds the TCP connections accepted per second, with bursts of AcceptBurst.
	// Further ones are closed at once (4.8). Addresses that have had few connections lately have a
	// reserve of another AcceptBurst. 0 means no bound.
	AcceptRate  float64
	AcceptBurst int
	// ClientRate bounds the bytes read from each client per second, with bursts of ClientBurst
	// bytes. Clients that send faster are read from more slowly (4.7). 0 means no bound.
	ClientRate, ClientBurst int64
	// WriteTimeout is how long a client may take no bytes before its connection is closed; 0 means
	// 2 s. Mesh peers have 30 s (4.3).
	WriteTimeout time.Duration
	// QueueMemory bounds the bytes queued to all clients together; 0 means 256 MiB. Beyond it
	// packets are dropped. Packets to an address are dropped earlier, when its clients have three
	// times as many bytes queued as are free.
	QueueMemory int64

	// AdmissionURL is asked whether a client may connect; empty admits all (6.2).
	AdmissionURL string
	// AdmissionStrict refuses clients while AdmissionURL cannot be reached. Otherwise they are
	// admitted.
	AdmissionStrict bool
	// HTTPClient sends the requests to AdmissionURL; nil means a client of its own.
	HTTPClient *http.Client
}

func (c *Config) maxClients() int { return cmp.Or(c.MaxClients, defaultMaxClients) }

func (c *Config) writeTimeout() time.Duration {
	return cmp.Or(c.WriteTimeout, defaultWriteTimeout)
}

// newLimiter returns the limiter for one client's bytes, or nil if there is no bound.
func (c *Config) newLimiter() *rate.Limiter {
	if c.ClientRate <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(c.ClientRate), int(min(max(c.ClientBurst, minRateBurst), math.MaxInt)))
}

func (c *Config) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

func (c *Config) httpClient() *http.Client {
	if c.HTTPClient == nil {
		return new(http.Client)
	}
	return c.HTTPClient
}

// Server is a DERP relay. It is an [http.Handler] for everything that a relay serves on its main
// port (7.1); [Server.Serve] runs it on a listener.
type Server struct {
	cfg         Config
	public      key.NodePublic
	log         *slog.Logger
	mux         *http.ServeMux
	metrics     *serverMetrics
	meta        []byte // the certificate that carries public, in DER form
	memory      *queueMemory
	registry    registry
	keepAlives  keepAlives
	acceptLimit *acceptLimit // nil if there is no bound
	clientLogs  clientLogs
	serial      atomic.Uint64 // of the latest connection
	revocations atomic.Uint64 // number of calls of Revoke

	ctx    context.Context // ended by stop
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closing bool
	conns   clients
	running running
}

// running are the parts of a server that start and end independently of its clients.
type running struct {
	services map[io.Closer]chan struct{} // HTTP servers and STUN sockets; closed when they have ended
	links    map[*meshLink]struct{}
	certs    []*certFiles
}

// New returns a server that serves nobody yet. It fails only if cfg lacks the key.
func New(cfg Config) (*Server, error) {
	if cfg.Key.IsZero() {
		return nil, errors.New("relay: server has no key")
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		cfg:         cfg,
		public:      cfg.Key.Public(),
		log:         cfg.log(),
		metrics:     newServerMetrics(),
		memory:      newQueueMemory(cmp.Or(cfg.QueueMemory, defaultQueueMemory)),
		acceptLimit: newAcceptLimit(&cfg),
		clientLogs:  newClientLogs(cfg.log()),
		ctx:         ctx,
		cancel:      cancel,
		running: running{
			services: make(map[io.Closer]chan struct{}),
			links:    make(map[*meshLink]struct{}),
		},
	}
	s.meta = derp.NewMetaCert(s.public, time.Now())
	s.keepAlives.wg, s.keepAlives.stopc = &s.wg, ctx.Done()
	s.mux = s.newMux()
	s.metrics.observe(s)
	return s, nil
}

// PublicKey returns the server's key, which clients check.
func (s *Server) PublicKey() key.NodePublic { return s.public }

// MetricsHandler serves the server's metrics to Prometheus.
func (s *Server) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}

// Collector returns the server's metrics, to be registered with those of a larger program.
func (s *Server) Collector() prometheus.Collector { return s.metrics.registry }

// Serve serves the connections of ln until Close, and then returns net.ErrClosed. It speaks TLS
// with conf, which [Server.TLSConfig] made, or plain HTTP if conf is nil. A failing accept does not
// end it unless ln itself is closed.
func (s *Server) Serve(ln net.Listener, conf *tls.Config) error {
	var open openConns
	hs := &http.Server{
		Handler:           s,
		ConnState:         open.change,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       2 * requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       2 * requestTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if !s.beginServing(hs) {
		ln.Close()
		return net.ErrClosed
	}
	defer s.endServing(hs)
	err := hs.Serve(s.Listener(ln, conf))
	hs.Close()
	open.wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return net.ErrClosed
	}
	return err
}

// openConns counts the connections for which an HTTP server has goroutines, because the server's
// Close does not wait for them.
type openConns struct{ wg sync.WaitGroup }

func (o *openConns) change(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		o.wg.Add(1)
	case http.StateHijacked, http.StateClosed:
		o.wg.Done()
	}
}

// beginServing has c closed together with the server. It reports false if the server is closed
// already.
func (s *Server) beginServing(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.running.services[c] = make(chan struct{})
	return true
}

func (s *Server) endServing(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.running.services[c])
	delete(s.running.services, c)
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect { // success would promise a tunnel (7.1)
		http.Error(w, "this is not a proxy", http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// sendPeerGone tells subscribers that the key has left the region.
func (s *Server) sendPeerGone(k key.NodePublic, told []*serverConn) {
	for _, c := range told {
		c.out.Send(derp.FlowID{Class: derp.ClassControl}, derp.AppendPeerGone(nil, k, derp.GoneDisconnected), 0)
		s.metrics.peerGone.WithLabelValues("disconnected").Inc()
	}
}

// sleep waits for d. It reports whether the server still runs.
func (s *Server) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Shutdown ends the server. It stops accepting, tells the clients that it restarts and when to come
// back (3.13), and closes everything once they have been told or ctx has ended. It returns when all
// goroutines have ended, including those of Serve and ServeSTUN.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	again := s.closing
	s.closing = true
	conns, services := s.listConnsLocked(), maps.Clone(s.running.services)
	s.mu.Unlock()
	if !again {
		for c := range services {
			c.Close()
		}
		for _, c := range conns {
			c.out.Send(derp.FlowID{Class: derp.ClassControl}, derp.AppendRestarting(nil, restartAdvice(len(conns))), 0)
		}
		for _, c := range conns {
			c.out.WaitIdle(ctx)
		}
		s.stop()
	}
	for _, donec := range services {
		<-donec
	}
	s.wg.Wait()
	return nil
}

// restartAdvice returns advice that spreads the return of the clients over time.
func restartAdvice(clients int) derp.RestartAdvice {
	in := rand.N(min(2*restartSpread*time.Duration(clients), maxRestart) + 1)
	return derp.RestartAdvice{ReconnectIn: uint32(in.Milliseconds()), TryFor: uint32(restartTryFor.Milliseconds())}
}

// stop ends all that runs, after closing has been set. It is called once.
func (s *Server) stop() {
	s.cancel()
	s.mu.Lock()
	conns, links := s.listConnsLocked(), slices.Collect(maps.Keys(s.running.links))
	s.mu.Unlock()
	for _, c := range conns {
		c.conn.HangUp(net.ErrClosed)
	}
	for _, l := range links {
		l.stop()
	}
}

// Close is Shutdown without waiting for slow clients.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.Shutdown(ctx)
}
