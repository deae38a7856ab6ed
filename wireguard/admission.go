package wireguard

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"ginnel/internal/share"
)

// Handshake messages are judged by the goroutine that receives them, before loop sees them, because
// loop multiplies on the curve for each (section 5.3). A message without a valid MAC1 comes from
// somebody who does not know our public key: it is dropped and counts for nothing. The others are
// admitted up to a rate, of one source and of all. Beyond it their senders prove by a cookie that
// they receive at the address that they send from, and have a second, smaller rate.

const (
	// loadRate messages a second, one multiplication each, take less than a tenth of a processor.
	// loadBurst is for a node whose peers all begin at once, because it was restarted.
	loadRate, loadBurst = 1000, 1024

	// sourceRate and sourceBurst are what one source has of that. Behind one address may be a whole
	// site whose router was restarted.
	sourceRate, sourceBurst = 200, 256

	// provenRate and provenBurst are what a source has beyond that if it returns our cookie: as
	// many as other implementations allow.
	provenRate, provenBurst = 20, 5

	// maxSources are remembered. When there are more, all are forgotten: those who forge that many
	// addresses are held back by loadRate.
	maxSources = 4096
)

// verdict is what becomes of a handshake message.
type verdict int

const (
	admitted   verdict = iota
	challenged         // the sender has to return a cookie
	refused
)

// admission holds the rates. Any goroutine may use it.
type admission struct {
	all             *rate.Limiter
	sources, proven shares
}

func (a *admission) init() {
	a.all = rate.NewLimiter(loadRate, loadBurst)
	a.sources.limit, a.sources.burst = sourceRate, sourceBurst
	a.proven.limit, a.proven.burst = provenRate, provenBurst
}

// judge takes a message with a valid MAC1.
func (a *admission) judge(id *identity, b []byte, from conn.Endpoint, now time.Time) verdict {
	source := share.SourceOf(from.DstIP())
	if a.sources.allow(source, now) && a.all.AllowN(now, 1) {
		return admitted
	}
	if !id.checker.CheckMAC2(b, from.DstToBytes()) {
		return challenged
	}
	if !a.proven.allow(source, now) {
		return refused
	}
	return admitted
}

// judgeCookie takes a cookie reply, which can carry no proof.
func (a *admission) judgeCookie(from conn.Endpoint, now time.Time) verdict {
	if a.sources.allow(share.SourceOf(from.DstIP()), now) {
		return admitted
	}
	return refused
}

// shares gives each source a rate of its own.
type shares struct {
	limit rate.Limit
	burst int

	mu  sync.Mutex
	all map[netip.Prefix]*rate.Limiter
}

func (s *shares) allow(source netip.Prefix, now time.Time) bool {
	s.mu.Lock()
	l := s.all[source]
	if l == nil {
		if s.all == nil || len(s.all) >= maxSources {
			s.all = make(map[netip.Prefix]*rate.Limiter)
		}
		l = rate.NewLimiter(s.limit, s.burst)
		s.all[source] = l
	}
	s.mu.Unlock()
	return l.AllowN(now, 1)
}

// mac1 checks MAC1s. It keeps its hash, so a flood of garbage allocates nothing. One goroutine at a
// time uses it.
type mac1 struct {
	id   *identity // whose key the hash has
	hash hash.Hash
	sum  [blake2s.Size128]byte
}

// valid reports whether b, an initiation or a response, has the MAC1 of messages to id.
func (m *mac1) valid(id *identity, b []byte) bool {
	if m.id != id {
		h, err := blake2s.New128(id.mac1Key[:])
		if err != nil {
			panic(err) // never so: the key has the right length
		}
		m.id, m.hash = id, h
	}
	m.hash.Reset()
	m.hash.Write(b[:len(b)-macsLen])
	want := m.hash.Sum(m.sum[:0])
	return subtle.ConstantTimeCompare(want, b[len(b)-macsLen:len(b)-macsLen+blake2s.Size128]) == 1
}

// takeHandshake passes a message of a handshake on to loop if it is worth it.
func (r *receiver) takeHandshake(b []byte) {
	d, id := r.d, r.d.self.Load()
	if !r.isForUs(id, b) {
		d.bogus.Add(1)
		return
	}
	v := refused
	if messageType(b) == typeCookie {
		v = d.admission.judgeCookie(r.from, time.Now())
	} else {
		v = d.admission.judge(id, b, r.from, time.Now())
	}
	if !(v == admitted && d.mail.put(b, r.from) || v == challenged && d.mail.putChallenged(b, r.from)) {
		d.full.Add(1)
	}
}

// isForUs reports whether the sender of a handshake message knows our public key, or answers a
// message of ours.
func (r *receiver) isForUs(id *identity, b []byte) bool {
	switch messageType(b) {
	case typeInitiation:
		return r.mac1.valid(id, b)
	case typeResponse:
		return r.d.index.get(binary.LittleEndian.Uint32(b[responseReceiver:])).peer != nil && r.mac1.valid(id, b)
	}
	return r.d.index.get(binary.LittleEndian.Uint32(b[cookieReceiver:])) != owner{}
}

// challenge answers a message with a cookie (section 5.4.7).
func (d *Device) challenge(id *identity, b []byte, from conn.Endpoint) {
	reply, err := id.checker.CreateReply(b, binary.LittleEndian.Uint32(b[initiationSender:]), from.DstToBytes())
	if err != nil {
		return
	}
	message, err := binary.Append(make([]byte, 0, cookieLen), binary.LittleEndian, reply)
	if err != nil {
		panic(err) // never so: a reply has a fixed size
	}
	d.bind.Send(0, [][]byte{message}, from)
}

// readCookie reads a cookie reply.
func readCookie(b []byte) *device.MessageCookieReply {
	var reply device.MessageCookieReply
	binary.Decode(b, binary.LittleEndian, &reply) // b has the right length
	return &reply
}
