package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"ginnel/control"
	"ginnel/key"
	"ginnel/transport"
)

// membership is the conversation with the coordination server: run registers the node and follows
// its map, and report tells the server what changes here. The last map stays in force while the
// server cannot be reached.
type membership struct {
	n      *Node
	cfg    *Control
	client *control.Client
	mapper mapper
	maps   mapKeeper
	talk   conversation
	noKey  bool // the pre-auth key is not sent any more: a person has to approve the node; owned by run

	joined     chan struct{} // closed by the first map
	registered chan struct{} // capacity 1; has an item when report may have something to send
	once       sync.Once

	mu            sync.Mutex
	netmap        *control.NetMap // nil before the first map
	applied       time.Time       // when netmap became the node's
	err           error           // why there is no conversation with the server; nil while there is one
	login         string          // the page on which the node waits to be approved
	expired       bool            // the node's key has expired, and the server has not accepted it or another again
	home          homeSelection
	registrations int  // successful ones
	known         bool // the server may have a registration of ours
	duplicate     duplicateKey
}

func newMembership(n *Node) (*membership, error) {
	client, err := n.host.controlClient(n.cfg.Control, n.controlPing)
	if err != nil {
		return nil, err
	}
	m := &membership{n: n, cfg: n.cfg.Control, client: client, joined: make(chan struct{}),
		registered: make(chan struct{}, 1), mapper: mapper{cfg: n.cfg.Control, log: n.log},
		maps: mapKeeper{cfg: n.cfg.Control},
		home: homeSelection{chooser: newHomeChooser(), meter: relayMeter{newsc: make(chan struct{}, 1)}}}
	return m, nil
}

// run registers the node and follows its map until ctx ends or the server refuses the node.
func (m *membership) run(ctx context.Context) {
	var wait control.Backoff
	known := false  // the server has our registration
	complaint := "" // the last error that was logged
	defer m.flushMap()
	for ctx.Err() == nil {
		err := m.converse(ctx, &known, &wait)
		if ctx.Err() != nil || m.n.life.isClosed() {
			return
		}
		m.setErr(err)
		if m.hopeless(err) {
			m.n.fail(fmt.Errorf("%w: %w", refusal(err), err))
			return
		}
		if _, refused := errors.AsType[*control.RefusedError](err); refused {
			m.noKey = true // the pre-auth key is refused now; a person may still approve the node
		}
		if text := err.Error(); text != complaint {
			complaint = text
			m.complain(err)
		}
		m.startOnLast(err)
		m.honourExpiry(time.Now())
		if errors.Is(err, control.ErrUnknownNode) {
			known = false
		}
		pause := wait.Next(rand.Float64())
		if limit, ok := errors.AsType[*control.RateLimitError](err); ok {
			pause = max(pause, limit.RetryAfter)
		}
		m.n.log.Debug("asking the coordination server again", "after", pause)
		m.pause(ctx, pause)
	}
}

// complain logs why there is no conversation with the server.
func (m *membership) complain(err error) {
	if isKeyChange(err) {
		m.n.log.Error("coordination server has another key than the known one; not talking to it", "err", err)
		return
	}
	m.n.log.Warn("no conversation with the coordination server", "err", err)
}

func (m *membership) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// hopeless reports whether another attempt cannot help. A node that has joined always tries again.
func (m *membership) hopeless(err error) bool {
	if m.hasJoined() && !m.maps.onLast {
		return false // the node goes on with the map that it has
	}
	if _, refused := errors.AsType[*control.RefusedError](err); refused {
		return true
	}
	return isKeyChange(err) || errors.Is(err, control.ErrVersionRefused) || errors.Is(err, control.ErrUnauthorized)
}

func isKeyChange(err error) bool {
	_, changed := errors.AsType[*control.KeyChangedError](err)
	return changed
}

// refusal returns the sentinel error for the end of Run.
func refusal(err error) error {
	if isKeyChange(err) {
		return ErrServerKeyChanged
	}
	return ErrJoinRefused
}

// streamLasts is how long a map stream has to last to reset the backoff. Two processes with one
// identity, or a middlebox, may end each stream as soon as it has begun.
const streamLasts = 10 * time.Second

// converse registers if need be, and follows the map until its stream ends for another reason than
// that the node's key has expired.
func (m *membership) converse(ctx context.Context, known *bool, wait *control.Backoff) error {
	if !*known {
		if err := m.register(ctx); err != nil {
			return err
		}
		*known = true
		m.countRegistration()
	}
	for {
		err := m.followMap(ctx, wait)
		if !errors.Is(err, errKeyExpired) {
			return err
		}
		m.noKey = true // who lets a key expire wants to be asked
		if err := m.renew(ctx); err != nil {
			return err
		}
		m.countRegistration()
	}
}

// countRegistration lets report know that the server has to be told everything.
func (m *membership) countRegistration() {
	m.mu.Lock()
	m.registrations++
	m.mu.Unlock()
	notify(m.registered)
}

// followMap follows one stream of the map to its end.
func (m *membership) followMap(ctx context.Context, wait *control.Backoff) error {
	began := time.Now()
	for nm, err := range m.client.Poll(ctx, m.request()) {
		if time.Since(began) > streamLasts {
			wait.Reset()
		}
		if err != nil {
			if errors.Is(err, control.ErrStreamEnded) {
				m.watchDuplicate(func(d *duplicateKey, now time.Time) { d.streamEnded(now) })
			}
			return err
		}
		m.setErr(nil)
		m.watchDuplicate(func(d *duplicateKey, now time.Time) {
			d.shown(now, nm.Self.DiscoKey, m.n.plane.conn.DiscoKey())
			if nm.DisplayMessages[control.MessageDuplicateKey] != nil {
				d.told(now)
			}
		})
		m.apply(nm)
		m.keepMap(nm)
		switch {
		case nm.Self.Key != m.n.key().Public(): // of an older key it says nothing any more
		case expired(nm, time.Now()):
			return errKeyExpired
		default:
			m.keyIsValid()
		}
	}
	return ctx.Err()
}

// watchDuplicate has show pass a sign to the detector, and logs a duplicate when it is first
// detected.
func (m *membership) watchDuplicate(show func(*duplicateKey, time.Time)) {
	now := time.Now()
	m.mu.Lock()
	before := m.duplicate.present(now)
	show(&m.duplicate, now)
	appeared := m.duplicate.present(now) && !before
	m.mu.Unlock()
	if appeared {
		m.n.log.Error("another process uses this node's key", "mend", duplicateKeyIssue.Mend)
	}
}

// register asks to be let in, by key or by a person.
func (m *membership) register(ctx context.Context) error {
	if err := m.pinServer(ctx); err != nil {
		return err
	}
	req := m.registration(m.n.key())
	for {
		resp, err := m.ask(ctx, req)
		switch {
		case err != nil:
			return err
		case resp.NodeKeyExpired, resp.AuthURL != "" && !m.cfg.Identity.Next.IsZero():
			// In the second case the next key may have been accepted while the node was down.
			return m.renew(ctx)
		case resp.AuthURL == "":
			m.clearLogin()
			m.noKey = false
			return nil
		}
		m.follow(ctx, &req, resp.AuthURL)
	}
}

// registration is a request to be let in by a key.
func (m *membership) registration(k key.NodePrivate) control.RegisterRequest {
	req := control.RegisterRequest{NodeKey: k.Public(), Hostinfo: m.request().Hostinfo, Ephemeral: m.cfg.Ephemeral}
	if m.cfg.AuthKey != "" && !m.noKey {
		req.Auth = &control.RegisterAuth{AuthKey: m.cfg.AuthKey}
	}
	return req
}

// follow shows the page on which the node can be approved, and makes req the question whether it
// is.
func (m *membership) follow(ctx context.Context, req *control.RegisterRequest, page string) {
	if req.Followup != "" { // a server that answers at once must not be asked again and again
		m.pause(ctx, time.Second)
	}
	m.setLogin(page, req.NodeKey)
	if m.maps.onLast {
		m.leavePeers("the coordination server does not know this node any more")
	}
	req.Followup, req.Auth = page, nil
}

// pinServer stores the server's key at the first contact.
func (m *membership) pinServer(ctx context.Context) error {
	if !m.cfg.Identity.Server.IsZero() {
		return nil
	}
	k, err := m.client.ServerKey(ctx)
	if err != nil {
		return err
	}
	m.cfg.Identity.Server = k
	return m.cfg.save()
}

// setLogin shows where the node can be approved, and by which key it waits.
func (m *membership) setLogin(url string, k key.NodePublic) {
	m.mu.Lock()
	news := url != m.login
	m.login = url
	m.mu.Unlock()
	if !news {
		return
	}
	m.n.log.Info("waiting to be approved", "url", url, "key", k)
	if f := m.cfg.Login; f != nil {
		f(url)
	}
}

func (m *membership) setErr(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// apply makes nm the node's map.
func (m *membership) apply(nm *control.NetMap) {
	m.mu.Lock()
	m.netmap, m.applied = nm, time.Now()
	if m.home.meter.homeFrom.IsZero() {
		m.home.meter.homeFrom, m.home.meter.noUDP = m.applied, m.n.cfg.RelayOnly
	}
	if m.home.region == 0 {
		m.home.region = nm.Self.HomeDERP // of an earlier run
	}
	relays := relayMap(nm.DERPMap)
	if relays.Regions[m.home.region] == nil {
		m.home.chooser.home = 0
		m.home.region = m.home.chooser.choose(time.Now(), &relays, nil, time.Time{})
	}
	m.home.chooser.home = m.home.region
	home := m.home.region
	m.mu.Unlock()
	if err := m.n.SetMap(m.mapper.networkMap(nm, home)); err != nil && !m.n.life.isClosed() {
		m.n.log.Warn("using the network map", "err", err)
	}
	m.mu.Lock()
	latest := m.home.region
	m.mu.Unlock()
	if latest != home { // it was chosen since
		m.n.plane.setHome(latest)
	}
	m.once.Do(func() { close(m.joined) })
	notify(m.registered)
}

// report sends the server our endpoints and home relay whenever they change. It repeats a request
// that fails.
func (m *membership) report(ctx context.Context) {
	statuses := make(chan transport.Status, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { m.watchTransport(ctx, statuses) })
	wg.Go(func() { m.measureRelays(ctx) })
	select {
	case <-m.joined:
	case <-ctx.Done():
		return
	}
	var wait control.Backoff
	var sent control.MapRequest
	told := 0 // number of the registration in which sent was sent; after another one, the server needs everything
	for ctx.Err() == nil {
		registration := m.registrationCount()
		req := m.request()
		if registration != told || !sameReport(&req, &sent) {
			if err := m.client.Update(ctx, req); err != nil {
				m.n.log.Debug("telling the coordination server of this node", "err", err)
				m.pause(ctx, wait.Next(rand.Float64()))
				continue
			}
			wait.Reset()
			sent, told = req, registration
		}
		select {
		case s := <-statuses:
			m.takeSTUN(s)
		case <-m.registered:
		case <-ctx.Done():
		}
	}
}

func (m *membership) registrationCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.registrations
}

// watchTransport passes on the latest state of the transport through statuses, which has room for
// one.
func (m *membership) watchTransport(ctx context.Context, statuses chan transport.Status) {
	for s := range m.n.plane.conn.Watch(ctx) {
		select {
		case <-statuses: // drops an older one
		default:
		}
		statuses <- s // does not block, because this is the only sender
	}
}

// takeSTUN takes the latencies of a round of STUN, if it has ended.
func (m *membership) takeSTUN(s transport.Status) {
	if !s.Measured {
		return
	}
	m.mu.Lock()
	m.home.meter.noUDP = len(s.Latency) == 0
	m.mu.Unlock()
	notify(m.home.meter.newsc)
	if len(s.Latency) > 0 {
		m.rehome(s.Latency)
	}
}

// rehome chooses the home relay by a new measurement.
func (m *membership) rehome(latency map[int]time.Duration) {
	heard := m.n.plane.homeStatus().LastHeard
	m.mu.Lock()
	if m.netmap == nil || m.err != nil {
		m.mu.Unlock()
		return // peers cannot learn of another home without the server
	}
	relays := relayMap(m.netmap.DERPMap)
	home := m.home.chooser.choose(time.Now(), &relays, latency, heard)
	moved := home != m.home.region
	if moved {
		m.home.region, m.home.meter.homeFrom = home, time.Now()
	}
	m.mu.Unlock()
	if moved {
		m.n.log.Info("home relay changed", "region", regionName(&relays, home))
		m.n.plane.setHome(home)
	}
}

// request returns all that the server is told of this node.
func (m *membership) request() control.MapRequest {
	s := m.n.plane.conn.Status()
	m.mu.Lock()
	home := m.home.region
	m.mu.Unlock()
	info := m.hostinfo()
	if home != 0 { // otherwise the server keeps the home of an earlier run, so that peers can reply through a relay
		udp := s.Global4.IsValid() || s.Global6.IsValid()
		info.NetInfo = &control.NetInfo{PreferredDERP: home, WorkingUDP: &udp, MappingVariesByDestIP: &s.MappingVaries}
	}
	req := control.MapRequest{NodeKey: m.n.key().Public(), DiscoKey: m.n.plane.conn.DiscoKey(), Hostinfo: info,
		Endpoints: s.Endpoints}
	slices.SortFunc(req.Endpoints, func(a, b netip.AddrPort) int { return a.Compare(b) })
	return req
}

func (m *membership) hostinfo() *control.Hostinfo {
	userspace := true
	return &control.Hostinfo{
		Hostname:        m.cfg.Hostname,
		OS:              osName(),
		IPNVersion:      m.n.cfg.Version,
		App:             "ginnel",
		GoArch:          runtime.GOARCH,
		GoVersion:       runtime.Version(),
		RequestTags:     m.cfg.Tags,
		RoutableIPs:     m.cfg.AdvertiseRoutes,
		Userspace:       &userspace,
		UserspaceRouter: &userspace,
		NoLogsNoSupport: true,
		Services:        m.n.ingress.exitDNS.services(),
	}
}

// osName returns the system's name in the form that coordination servers know.
func osName() string {
	switch runtime.GOOS {
	case "darwin":
		return "macOS"
	default:
		return runtime.GOOS
	}
}

// sameReport reports whether request a tells the server nothing that b has not.
func sameReport(a, b *control.MapRequest) bool {
	return a.NodeKey == b.NodeKey && a.DiscoKey == b.DiscoKey && slices.Equal(a.Endpoints, b.Endpoints) &&
		b.Hostinfo != nil && sameNet(a.Hostinfo.NetInfo, b.Hostinfo.NetInfo)
}

func sameNet(a, b *control.NetInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.PreferredDERP == b.PreferredDERP && *a.WorkingUDP == *b.WorkingUDP
}

// await waits for the first map. Its error says why there is none.
func (m *membership) await(ctx context.Context) error {
	select {
	case <-m.joined:
		return nil
	default:
	}
	select {
	case <-m.joined:
		return nil
	case <-m.n.life.ctx.Done():
		return errClosedWhileJoining
	case <-ctx.Done():
	}
	_, reason, _ := m.state()
	return fmt.Errorf("this node has not joined its network yet (%s): %w", reason, ctx.Err())
}

var errClosedWhileJoining = errors.New("the node was closed before it had joined its network")
