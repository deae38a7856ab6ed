package transport

import (
	"net/netip"
	"time"

	"github.com/pion/stun/v3"
)

const (
	stunTries    = 3
	stunSpacing  = 100 * time.Millisecond // between tries
	stunTimeout  = 3 * time.Second        // of a round
	stunSoftware = "tailnode"             // derper answers no other

	// freshness is the maximum age of our own endpoints in a CallMeMaybe (disco specification, section
	// 3.2).
	freshness = 27 * time.Second

	// Time between rounds while there is traffic. Many NATs drop a mapping after 30 s.
	stunPeriodMin = 20 * time.Second
	stunPeriodMax = 26 * time.Second

	maxSTUNServers = 64 // that one round asks
)

// STUNServer is one address of a STUN server.
type STUNServer struct {
	Region int
	Addr   netip.AddrPort
}

type stunTxID = [stun.TransactionIDSize]byte

// prober asks STUN servers for our address (disco specification, sections 4.2 to 4.4). Like path,
// it is a state machine without clock or socket.
type prober struct {
	txid    func() stunTxID
	servers []STUNServer

	running  bool
	started  time.Time
	tries    int // of this round
	asked    map[stunTxID]stunProbe
	answered map[netip.AddrPort]bool // servers, in this round

	report   stunReport // of the last round, or of the running one so far
	previous stunReport
}

// stunProbe is one request without an answer so far.
type stunProbe struct {
	server STUNServer
	at     time.Time
}

// stunReport is the result of a round.
type stunReport struct {
	at      time.Time // when the round ended, zero while it runs
	global4 netip.AddrPort
	global6 netip.AddrPort
	// varies means that two servers saw different IPv4 addresses, so the NAT is hard to traverse.
	// known4 counts answers.
	varies  bool
	known4  int
	latency map[int]time.Duration // the lowest of each region
}

// stunOut is a request to send now.
type stunOut struct {
	to   netip.AddrPort
	txid stunTxID
}

// start begins a round unless one is running.
func (p *prober) start(now time.Time) []stunOut {
	if p.running || len(p.servers) == 0 {
		return nil
	}
	p.running, p.started, p.tries = true, now, 0
	p.asked = make(map[stunTxID]stunProbe)
	p.answered = make(map[netip.AddrPort]bool)
	p.previous = p.report
	p.report = stunReport{latency: make(map[int]time.Duration)}
	return p.ask(now)
}

// ask sends the next request to every server that has not answered.
func (p *prober) ask(now time.Time) (out []stunOut) {
	p.tries++
	for _, s := range p.servers {
		if p.answered[s.Addr] {
			continue
		}
		id := p.txid()
		p.asked[id] = stunProbe{s, now}
		out = append(out, stunOut{s.Addr, id})
	}
	return out
}

// reply takes the answer of a server. It reports false if it answers no request.
func (p *prober) reply(now time.Time, txid stunTxID, mapped netip.AddrPort) bool {
	probe, ok := p.asked[txid]
	if !ok {
		return false
	}
	delete(p.asked, txid)
	p.answered[probe.server.Addr] = true
	r := &p.report
	rtt := now.Sub(probe.at)
	if old, ok := r.latency[probe.server.Region]; !ok || rtt < old {
		r.latency[probe.server.Region] = rtt
	}
	if mapped.Addr().Is4() {
		r.known4++
		if r.known4 == 1 {
			r.global4 = mapped
		} else if r.global4 != mapped {
			r.varies = true
		}
	} else {
		r.global6 = mapped
	}
	if len(p.answered) == len(p.servers) {
		p.finish(now)
	}
	return true
}

// tick sends the requests that are due and ends the round when it is over.
func (p *prober) tick(now time.Time) []stunOut {
	if !p.running {
		return nil
	}
	if now.Sub(p.started) >= p.patience() {
		p.finish(now)
		return nil
	}
	if p.tries < stunTries && now.Sub(p.started) >= time.Duration(p.tries)*stunSpacing {
		return p.ask(now)
	}
	return nil
}

// patience returns how long a round lasts. After the first answer the other servers get twice the
// slowest latency so far, counted from the last request.
func (p *prober) patience() time.Duration {
	var slowest time.Duration
	for _, d := range p.report.latency {
		slowest = max(slowest, d)
	}
	if slowest == 0 {
		return stunTimeout
	}
	return min(stunTimeout, stunTries*stunSpacing+2*slowest)
}

func (p *prober) finish(now time.Time) {
	p.running = false
	p.report.at = now
	p.asked = nil
}

// next returns when tick has something to do, zero for never.
func (p *prober) next() time.Time {
	if !p.running {
		return time.Time{}
	}
	end := p.started.Add(p.patience())
	if p.tries < stunTries {
		return firstTime(end, p.started.Add(time.Duration(p.tries)*stunSpacing))
	}
	return end
}

// current returns the answers of this round, completed by those of the previous round.
func (p *prober) current() stunReport {
	r := p.report
	if !p.running {
		return r
	}
	if !r.global4.IsValid() {
		r.global4, r.varies, r.known4 = p.previous.global4, p.previous.varies, p.previous.known4
	}
	if !r.global6.IsValid() {
		r.global6 = p.previous.global6
	}
	return r
}

// bindingRequest builds the request that derper answers: SOFTWARE, then FINGERPRINT (section 4.2).
func bindingRequest(txid stunTxID) []byte {
	m, err := stun.Build(stun.NewTransactionIDSetter(txid), stun.BindingRequest, stun.NewSoftware(stunSoftware),
		stun.Fingerprint)
	if err != nil {
		panic("internal error: building a STUN request: " + err.Error())
	}
	return m.Raw
}

// xorMappedAddressOld is the number of XOR-MAPPED-ADDRESS in drafts of the RFC.
const xorMappedAddressOld = stun.AttrType(0x8020)

// parseBindingResponse parses a success response. ok is false for every other message.
func parseBindingResponse(b []byte) (txid stunTxID, mapped netip.AddrPort, ok bool) {
	m := &stun.Message{Raw: b}
	if m.Decode() != nil || m.Type != stun.BindingSuccess {
		return txid, mapped, false
	}
	var xor stun.XORMappedAddress
	if xor.GetFrom(m) != nil && xor.GetFromAs(m, xorMappedAddressOld) != nil {
		var plain stun.MappedAddress
		if plain.GetFrom(m) != nil {
			return txid, mapped, false
		}
		xor.IP, xor.Port = plain.IP, plain.Port
	}
	ip, ok := netip.AddrFromSlice(xor.IP)
	if !ok || xor.Port == 0 {
		return txid, mapped, false
	}
	// A server on a dual-stack socket may answer with an IPv4-mapped address.
	return m.TransactionID, netip.AddrPortFrom(ip.Unmap(), uint16(xor.Port)), true
}
