package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ginnel/control"
	"ginnel/relay"
)

// Step is a condition for reaching a service of the mesh.
type Step string

// The steps, in their order. Each of the first three is a reason why a node has not joined its
// network.
const (
	StepControl   Step = "control" // the coordination server is not reachable
	StepLogin     Step = "login"   // a person has to approve the node
	StepJoin      Step = "join"    // the node has no map for another reason
	StepName      Step = "name"
	StepMap       Step = "map"
	StepPolicy    Step = "policy"
	StepOnline    Step = "online"
	StepPath      Step = "path"
	StepHandshake Step = "handshake"
	StepTCP       Step = "tcp"
)

// StepState is the result of checking a step.
type StepState string

// The states of a step.
const (
	StepFine    StepState = "fine"
	StepBroken  StepState = "broken"
	StepUnknown StepState = "unknown" // neither proved nor disproved
)

// WhyStep is one step of a Verdict.
type WhyStep struct {
	Step  Step      `json:"step"`
	State StepState `json:"state"`
	Text  string    `json:"text"`
}

// Verdict says whether a destination can be reached and, if not, which step is the first that is
// broken. Scripts read its JSON.
type Verdict struct {
	Target string    `json:"target"`
	Steps  []WhyStep `json:"steps"`            // up to and including the broken one
	Broken Step      `json:"broken,omitempty"` // empty: no step is broken
	Text   string    `json:"text,omitempty"`   // what is broken
	Mend   string    `json:"mend,omitempty"`   // what to do about it
}

func (v *Verdict) add(step Step, state StepState, text string) {
	v.Steps = append(v.Steps, WhyStep{step, state, text})
}

// fail adds the broken step, which is the last.
func (v *Verdict) fail(step Step, text, mend string) {
	v.add(step, StepBroken, text)
	v.Broken, v.Text, v.Mend = step, text, mend
}

// Why checks the steps to target, host:port, up to the first one that is broken. For a target
// without a port the last step is the handshake; for an empty target it is the node's own
// membership. The context bounds the attempts to connect.
func (n *Node) Why(ctx context.Context, target string) Verdict {
	w := &walk{n: n, v: Verdict{Target: target, Steps: []WhyStep{}}}
	if !w.joins() || target == "" {
		return w.v
	}
	w.host = target
	if host, port, err := net.SplitHostPort(target); err == nil {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			w.v.fail(StepName, fmt.Sprintf("%q is not a port", port), "write HOST:PORT, such as db:5432")
			return w.v
		}
		w.host, w.port = host, uint16(number)
	}
	if w.resolves(ctx) && w.locates() {
		w.connects(ctx)
	}
	return w.v
}

// walk is one call of Why. Its methods add steps to the verdict; those that return a bool report
// whether to go on.
type walk struct {
	n    *Node
	v    Verdict
	host string
	port uint16 // 0: the target has no port

	addrs []netip.Addr // empty for a name that the proxy of the environment resolves
	addr  netip.Addr   // the one of addrs that is checked
	peer  *Peer        // that has addr; nil outside the mesh and for this node
	own   bool         // addr is this node's
}

// joins checks whether the node has a map.
func (w *walk) joins() bool {
	m := w.n.member
	if m == nil {
		return true
	}
	switch state, reason, err := m.state(); {
	case state == StateNeedsLogin && m.hasExpired():
		w.v.fail(StepLogin, keyExpired.Text+": "+reason, keyExpired.Mend)
	case state == StateNeedsLogin:
		w.v.fail(StepLogin, reason, "open that page, or start the node with --authkey KEY")
	case m.hasJoined():
		return true
	case errors.Is(err, ErrControlUnreachable):
		w.v.fail(StepControl, reason, unreachableMend(w.n.cfg.Control.URL, err))
	default:
		w.v.fail(StepJoin, reason, "wait, or look at the log of the coordination server")
	}
	return false
}

// unreachableMend returns what to do about a coordination server that cannot be reached.
func unreachableMend(server string, err error) string {
	if errors.Is(err, control.ErrPlainPort) { // the URL is wrong, and no proxy is missing
		return "start the node with the URL that begins with http://"
	}
	variable := "HTTPS_PROXY"
	if strings.HasPrefix(server, "http://") {
		variable = "HTTP_PROXY"
	}
	return fmt.Sprintf("check that %s can be reached from here; %s names a proxy on the way", server, variable)
}

// resolves checks whether the host has addresses.
func (w *walk) resolves(ctx context.Context) bool {
	if a, err := netip.ParseAddr(w.host); err == nil {
		w.addrs = []netip.Addr{a.Unmap()}
		w.v.add(StepName, StepFine, w.host+" is an address")
		return true
	}
	if w.n.dialer.leavesToProxy("tcp", w.host) {
		w.v.add(StepName, StepFine, w.host+" is left to the proxy of the environment to resolve")
		return true
	}
	addrs, err := w.n.dialer.lookup(ctx, w.host)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no address", Name: w.host, IsNotFound: true}
	}
	if err != nil {
		w.v.fail(StepName, err.Error(), w.nameMend(err))
		return false
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		addrs[i] = a.Unmap()
		texts[i] = addrs[i].String()
	}
	w.addrs = addrs
	w.v.add(StepName, StepFine, w.host+" is "+strings.Join(texts, ", "))
	return true
}

func (w *walk) nameMend(err error) string {
	if errors.Is(err, syscall.EHOSTUNREACH) {
		return "use one of their addresses, which 'ginnel status' lists, or rename one of the nodes"
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return w.leaveMend()
	case ok && dns.IsNotFound && w.n.plane.netmap.Load().Mesh:
		return "check the spelling: 'ginnel status' lists the names of the peers that policy lets this node see"
	case ok && dns.IsNotFound:
		return "check the spelling, or use an address"
	}
	return "check the DNS servers of the network, or use an address"
}

// locates checks whether a node has one of the addresses.
func (w *walk) locates() bool {
	if len(w.addrs) == 0 {
		w.v.add(StepMap, StepFine, w.host+" is outside the mesh")
		return w.mayLeave()
	}
	r := w.n.plane.routes.Load()
	w.addr = w.addrs[0]
	for _, a := range w.addrs {
		if a = a.WithZone(""); r.inMesh(a) { // the mesh is one link
			w.addr = a
			break
		}
	}
	switch w.peer, w.own = r.peer(w.addr), r.isOwn(w.addr); {
	case w.own:
		w.peer = nil
		w.v.add(StepMap, StepFine, w.addr.String()+" is this node's own")
	case !r.inMesh(w.addr):
		w.peer = nil
		w.v.add(StepMap, StepFine, w.addr.String()+" is outside the mesh")
		return w.mayLeave()
	case w.peer == nil:
		w.v.fail(StepMap, noPeerError(w.addr).Error(),
			"check the address; a node that policy hides from this one is not in its map")
		return false
	case r.hosts[w.addr] == w.peer:
		w.v.add(StepMap, StepFine, w.addr.String()+" is peer "+w.peer.display())
	default:
		w.v.add(StepMap, StepFine, w.addr.String()+" is behind peer "+w.peer.display())
	}
	return true
}

// mayLeave checks whether this node may dial a destination outside the mesh.
func (w *walk) mayLeave() bool {
	err := w.n.dialer.mayLeave(w.addr)
	if err == nil {
		w.v.add(StepPolicy, StepFine, "this node dials what is outside the mesh from its host")
		return true
	}
	if router := w.unusedRouter(); router != "" {
		w.failUnusedRoute(router, err)
		return false
	}
	w.v.fail(StepPolicy, err.Error(), w.leaveMend())
	return false
}

// leaveMend is what to do about a destination that is outside the mesh and may not be reached from
// this node.
func (w *walk) leaveMend() string {
	switch {
	case w.n.cfg.MeshOnly:
		return "start the node without --mesh-only, or use an address of the mesh"
	case w.n.plane.netmap.Load().ExitLost != "":
		return "check that the exit node is online and offers to be one, or leave out --exit-node"
	case w.n.cfg.wantsExit():
		return "give the network nameservers that the exit node reaches, or use an address"
	}
	return "dial it from this machine, without the proxy"
}

// pongTime bounds the ping that is sent during the attempt to connect.
const pongTime = 3 * time.Second

// connects dials and pings, and judges the results.
func (w *walk) connects(ctx context.Context) {
	if w.peer == nil {
		w.judgeHost(w.dial(ctx))
		return
	}
	pong := make(chan error, 1)
	ping := func() { pong <- w.ping(ctx) }
	if !w.n.life.spawn(ping) {
		pong <- net.ErrClosed
	}
	if w.port == 0 {
		w.judgePeer(nil, <-pong)
		return
	}
	err := w.dial(ctx)
	if answered(err) {
		w.judgePeer(err, nil)
		return
	}
	w.judgePeer(err, <-pong)
}

func (w *walk) dial(ctx context.Context) error {
	if w.port == 0 {
		return nil
	}
	var c net.Conn
	var err error
	if len(w.addrs) == 0 {
		c, err = w.n.dialer.dialHost(ctx, "tcp", net.JoinHostPort(w.host, strconv.Itoa(int(w.port))))
	} else {
		c, err = w.n.dialer.race(ctx, "tcp", w.addrs, w.port)
	}
	if err != nil {
		return err
	}
	c.Close()
	return nil
}

func (w *walk) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pongTime)
	defer cancel()
	_, err := w.n.Ping(ctx, w.addr.String())
	return err
}

// answered reports whether the result of a dial proves that the peer has received a packet and
// replied.
func answered(err error) bool {
	return err == nil || isRejected(err) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// judgeHost adds the steps for an address that no peer has.
func (w *walk) judgeHost(err error) {
	if err == nil {
		if w.port != 0 {
			w.v.add(StepTCP, StepFine, "connected")
		}
		return
	}
	if router := w.unusedRouter(); router != "" {
		w.failUnusedRoute(router, err)
		return
	}
	mend := "check that the service runs and that this machine can reach it"
	if w.own {
		mend = fmt.Sprintf("start the node with --serve %d=LOCAL", w.port)
	}
	w.v.fail(StepTCP, err.Error(), mend)
}

// failUnusedRoute replaces the steps after the name by a broken map: the address is only outside
// the mesh because a route is not used.
func (w *walk) failUnusedRoute(router string, err error) {
	w.v.Steps = w.v.Steps[:1]
	w.v.fail(StepMap, fmt.Sprintf("%v is behind peer %s, whose routes this node does not use: %v", w.addr, router, err),
		"start the node with --accept-routes")
}

// unusedRouter returns the name of a peer with a route to the address that this node does not use;
// empty if there is none.
func (w *walk) unusedRouter() string {
	m := w.n.member
	if m == nil || !w.addr.IsValid() {
		return ""
	}
	m.mu.Lock()
	nm := m.netmap
	m.mu.Unlock()
	if nm == nil {
		return ""
	}
	for _, p := range nm.Peers {
		for _, route := range p.AllowedIPs {
			if route.Bits() > 0 && route.Contains(w.addr) {
				return shortName(p.Name, magicSuffix(nm.Self))
			}
		}
	}
	return ""
}

// judgePeer adds the steps for a peer. dialled is the result of the dial. ponged is the result of
// the ping; nil also if the dial alone proves that the peer answers.
func (w *walk) judgePeer(dialled, ponged error) {
	if !w.policyLets(dialled) {
		return
	}
	if ponged != nil && w.peer.isOffline() && w.n.dialer.stillOffline(w.peer) {
		w.v.fail(StepOnline, "peer "+w.peer.display()+": "+w.peer.offlineText(),
			"start that node, or give it its network back")
		return
	}
	w.v.add(StepOnline, StepFine, w.onlineText())
	if !w.hasPath(ponged) {
		return
	}
	s, _ := w.n.plane.peers.session(w.peer.Key)
	proved := w.port == 0 && ponged == nil || w.port != 0 && answered(dialled)
	if !proved && !recent(s.handshake) {
		w.v.fail(StepHandshake, "peer "+w.peer.display()+": "+w.n.dialer.silence(w.peer), w.handshakeMend())
		return
	}
	w.v.add(StepHandshake, StepFine, handshakeText(s.handshake))
	switch {
	case w.port == 0:
	case dialled == nil:
		w.v.add(StepTCP, StepFine, fmt.Sprintf("port %d accepts connections", w.port))
	case errors.Is(dialled, syscall.ECONNREFUSED):
		w.v.fail(StepTCP, dialled.Error(),
			fmt.Sprintf("start the service there; a ginnel node opens it by --serve %d=LOCAL", w.port))
	case errors.Is(dialled, syscall.ETIMEDOUT) && w.n.plane.netmap.Load().Mesh:
		w.v.fail(StepTCP, dialled.Error(), "look for a firewall or a service that hangs there; "+
			"some nodes also drop what policy forbids without saying so")
	default:
		w.v.fail(StepTCP, dialled.Error(), "look for a firewall or a service that hangs there")
	}
}

// policyLets adds the step of the network's policy. Only the peer knows what the policy lets in
// there.
func (w *walk) policyLets(dialled error) bool {
	switch {
	case isRejected(dialled):
		self := w.n.plane.netmap.Load().Addresses[0].Addr()
		for _, p := range w.n.plane.netmap.Load().Addresses {
			if p.Addr().Is4() == w.addr.Is4() {
				self = p.Addr()
			}
		}
		dst := net.JoinHostPort(w.addr.String(), strconv.Itoa(int(w.port)))
		rule := fmt.Sprintf(`{"action": "accept", "src": [%q], "dst": [%q]}`, self, dst)
		w.v.fail(StepPolicy, dialled.Error(), "have the network's policy allow it, for example by "+rule)
		return false
	case w.port != 0 && answered(dialled):
		w.v.add(StepPolicy, StepFine, fmt.Sprintf("port %d of peer %s is open to this node", w.port, w.peer.display()))
	default:
		w.v.add(StepPolicy, StepUnknown, "peer "+w.peer.display()+" has not rejected this node")
	}
	return true
}

func (w *walk) onlineText() string {
	switch {
	case w.peer.Online == nil:
		return "it is not known whether peer " + w.peer.display() + " is online"
	case w.peer.isOffline():
		return w.peer.offlineText() + ", the server says, but it answers"
	}
	return "peer " + w.peer.display() + " is online"
}

// hasPath adds the step of the path, direct or through a relay.
func (w *walk) hasPath(ponged error) bool {
	m, p := w.n.plane.netmap.Load(), w.peer
	ts, ps := w.n.plane.conn.Status(), w.n.plane.pool.Status()
	s, _ := w.n.plane.peers.session(p.Key)
	status := w.n.plane.peerStatus(m, p, &ts, s)
	switch {
	case p.Plain && !s.endpoint.IsValid():
		w.v.fail(StepPath, "peer "+p.display()+": "+w.n.dialer.silence(p),
			"give the peer an Endpoint, or have it speak first")
		return false
	case p.Plain:
		w.v.add(StepPath, StepFine, "endpoint "+s.endpointText())
	case ponged != nil:
		text, mend := relayFault(m, p, &ps)
		w.v.fail(StepPath, "peer "+p.display()+": "+text, mend)
		return false
	case status.Path == PathDirect:
		w.v.add(StepPath, StepFine, "direct, "+status.Endpoint)
	default:
		w.v.add(StepPath, StepFine, "relay "+status.Relay)
	}
	return true
}

// relayFault returns why there is no path to a peer that does not answer a ping.
func relayFault(m *NetworkMap, p *Peer, ps *relay.PoolStatus) (text, mend string) {
	if p.Region == 0 && len(p.Endpoints) == 0 {
		return "it has neither a relay nor an address", "check its relays there: 'ginnel netcheck'"
	}
	name := regionName(&m.Relays, p.Region)
	for _, r := range ps.Regions {
		if r.Region == p.Region && r.State != relay.RegionConnected && r.Err != nil {
			return fmt.Sprintf("no direct path, and no connection to its relay %s: %v", name, r.Err),
				"let TCP out to the relay, or name a proxy in HTTPS_PROXY; 'ginnel netcheck' shows what is reachable"
		}
	}
	return "no answer, neither directly nor over its relay " + cmp.Or(name, "(it has none)"),
		"check that the node runs and reaches its relay: 'ginnel netcheck' there"
}

func (w *walk) handshakeMend() string {
	if w.peer.Plain {
		return "check the keys on both sides, the address in Endpoint, and that UDP gets there"
	}
	return "restart the node on the side that changed its key; the peer may not know this node's key"
}

func handshakeText(at time.Time) string {
	if at.IsZero() {
		return "not needed yet"
	}
	return fmt.Sprintf("last one %v ago", time.Since(at).Round(time.Second))
}
