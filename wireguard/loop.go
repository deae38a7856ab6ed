package wireguard

import (
	"math"
	"math/rand/v2"
	"time"
)

// lookEvery is the time between two looks at a peer that has a session and nothing due. Packets set
// answerDue and keepaliveDue without waking loop, at least keepaliveIn ahead, so loop sees them
// before they are due.
const lookEvery = keepaliveIn

// keeper is the state of loop.
type keeper struct {
	d      *Device
	s      sender
	active map[*peer]struct{} // for which something is due, or may become
	next   int64              // when they are to be looked at; not later than anything is due
}

// loop owns handshakes and timers.
func (d *Device) loop() {
	l := &keeper{d: d, s: sender{d: d}, active: make(map[*peer]struct{}), next: math.MaxInt64}
	timer := time.NewTimer(time.Hour)
	for {
		select {
		case <-d.mail.wakec:
		case <-timer.C:
		case <-d.closec:
			return
		}
		l.work()
		if now := d.now(); now >= l.next {
			l.lookAtAll(now)
		}
		timer.Reset(time.Duration(max(l.next-d.now(), int64(time.Millisecond))))
	}
}

// work does what is in the mailbox. Messages come first: one of them may bring the session that was
// asked for, and a handshake that begins makes the response to the one before worthless.
func (l *keeper) work() {
	messages, asked := l.d.mail.take()
	for _, m := range messages {
		l.receive(m)
	}
	now := l.d.now()
	for _, p := range asked {
		l.answer(p, now)
	}
	for _, m := range l.d.mail.takeChallenged() {
		l.d.challenge(l.d.self.Load(), m.b, m.ep)
	}
}

// answer does what p needs.
func (l *keeper) answer(p *peer, now int64) {
	defer l.look(p, now)
	what := p.asks.Swap(0)
	if what&askReset != 0 {
		l.reset(p, now)
	}
	if what&askConfirmed != 0 && !p.needsSession(now) {
		l.d.cancel(p)
		p.attempts = 0
	}
	if p.removed.Load() {
		return
	}
	if what&askFlush != 0 {
		l.s.flush(p, now)
	}
	if (what&askHandshake != 0 || what&askReset != 0 && p.waiting()) && p.needsSession(now) {
		l.begin(p, now)
	}
}

// reset forgets what was tried with p. If the peer has begun a handshake that we answered since the
// reset was asked for, the time of that still holds: the session is about to be used.
func (l *keeper) reset(p *peer, now int64) {
	l.d.cancel(p)
	if !p.isAnswered(now) {
		p.began = 0
	}
}

// begin begins a handshake with p. Within rekeyTimeout of the last one, whoever began it, it waits.
func (l *keeper) begin(p *peer, now int64) {
	switch {
	case p.began == 0 || now-p.began >= rekeyTimeout:
		p.attempts = 0
		l.d.shake(p, now)
	case p.retryAt == 0:
		p.attempts, p.retryAt = 0, p.began+rekeyTimeout
	}
}

// receive takes a message of a handshake that was admitted.
func (l *keeper) receive(m handshakeMessage) {
	d, now := l.d, l.d.now()
	switch messageType(m.b) {
	case typeCookie:
		l.takeCookie(m.b)
	case typeInitiation:
		if p := d.takeInitiation(m.b, m.ep, now); p != nil {
			l.look(p, now)
		}
	case typeResponse:
		// The peer does not send by the session before we have.
		if p := d.takeResponse(m.b, m.ep, now); p != nil && !l.s.flush(p, now) {
			l.s.keepalive(p, now)
		}
	}
}

// takeCookie takes what a peer under load wants to see with our next message.
func (l *keeper) takeCookie(b []byte) {
	reply := readCookie(b)
	of := l.d.index.get(reply.Receiver)
	p := of.peer
	if of.session != nil {
		p = of.session.peer
	}
	if p == nil || !p.cookies.ConsumeReply(reply) {
		l.d.bogus.Add(1)
	}
}

// lookAtAll does what is due.
func (l *keeper) lookAtAll(now int64) {
	l.next = now + int64(time.Hour)
	for p := range l.active {
		l.look(p, now)
	}
}

// look does what is due for p, and sees to it that p is looked at again.
func (l *keeper) look(p *peer, now int64) {
	at := l.lookAt(p, now)
	if at == 0 {
		delete(l.active, p)
		l.d.lanes.leave(p)
		return
	}
	l.active[p] = struct{}{}
	l.next = min(l.next, at)
}

// lookAt does what is due for p, and returns when something will be, 0 for never.
func (l *keeper) lookAt(p *peer, now int64) int64 {
	if p.removed.Load() {
		return 0
	}
	l.retry(p, now)
	if at := p.answerDue.Load(); at != 0 && now >= at {
		p.answerDue.CompareAndSwap(at, 0)
		if p.pending == nil {
			l.begin(p, now)
		}
	}
	if at := p.keepaliveDue.Load(); at != 0 && now >= at {
		p.keepaliveDue.CompareAndSwap(at, 0)
		l.s.keepalive(p, now)
	}
	if l.isSilent(p, now) && !l.s.keepalive(p, now) {
		l.begin(p, now)
	}
	if p.derived != 0 && now >= p.derived+forgetAfter {
		p.derived = 0
		l.d.forgetSessions(p)
	}
	return l.nextLook(p, now)
}

// isSilent reports whether it is time for a persistent keepalive. There is none while a handshake
// goes on or waits for its time.
func (l *keeper) isSilent(p *peer, now int64) bool {
	every, last := p.keepalive.Load(), p.lastMessage.Load()
	return every > 0 && p.retryAt == 0 && (last == 0 || now >= last+every)
}

// retry repeats a beginning that was not answered, or gives it up.
func (l *keeper) retry(p *peer, now int64) {
	switch {
	case p.retryAt == 0 || now < p.retryAt:
	case p.attempts >= maxAttempts:
		l.d.cancel(p)
		p.attempts = 0
		l.d.full.Add(uint64(len(p.unstage())))
	default:
		l.d.shake(p, now)
	}
}

// nextLook returns when p has to be looked at again, 0 for never.
func (l *keeper) nextLook(p *peer, now int64) int64 {
	next := int64(0)
	sooner := func(at int64) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	sooner(p.retryAt)
	sooner(p.answerDue.Load())
	sooner(p.keepaliveDue.Load())
	if every := p.keepalive.Load(); every > 0 && p.retryAt == 0 {
		sooner(p.lastMessage.Load() + every)
	}
	if p.derived != 0 {
		sooner(min(p.derived+forgetAfter, now+lookEvery))
	}
	return next
}

// jitter keeps two sides from doing the same at the same time, again and again.
func jitter() int64 { return rand.Int64N(maxJitter) }
