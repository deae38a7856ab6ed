package server

import "time"

// loginGrace is how long a login is kept when no client waits for it. A client waits from the start
// and keeps reconnecting, so loginGrace must be longer than the client's reconnect delay.
const loginGrace = time.Minute

// loginWait counts the requests that wait for the outcome of a login.
type loginWait struct {
	open int       // number of requests that wait
	left time.Time // when the latest one ended
	ends time.Time // when the login expires at the latest
}

// addWaiter records that a request waits for a login.
func (c *core) addWaiter(t *tx, l *login) {
	w := c.loginWaits[l.ID]
	w.open++
	c.setLoginWait(t, l, w)
}

// removeWaiter records that a request stopped waiting. The login may have ended before.
func (c *core) removeWaiter(t *tx, l *login) {
	if t.logins[l.ID] == nil {
		return
	}
	w := c.loginWaits[l.ID]
	w.open--
	w.left = t.mono
	c.setLoginWait(t, l, w)
}

// resetLoginTimer starts the timer of a login, or restarts loginGrace if no request waits for it.
// After a restart of the server, only the wall clock tells how much of the login's life is left.
func (c *core) resetLoginTimer(t *tx, l *login) {
	w := c.loginWaits[l.ID]
	if w.left = t.mono; w.ends.IsZero() {
		w.ends = t.mono.Add(min(l.Until.Sub(t.now), loginLife))
	}
	c.setLoginWait(t, l, w)
}

func (c *core) setLoginWait(t *tx, l *login, w loginWait) {
	set(t, c.loginWaits, l.ID, w)
	t.after = append(t.after, func() { c.timers.logins.set(l.ID, c.loginDeadline(l)) })
}

// endLogin deletes a login and wakes the requests that wait for it.
func (c *core) endLogin(t *tx, l *login, why loginOutcome) {
	t.erase(l)
	unset(t, t.logins, l.ID)
	unset(t, c.loginWaits, l.ID)
	t.after = append(t.after, func() {
		l.refused = why == loginRefused
		close(l.endc)
		c.timers.logins.set(l.ID, time.Time{})
	})
}

// loginDeadline returns when a login expires.
func (c *core) loginDeadline(l *login) time.Time {
	w := c.loginWaits[l.ID]
	if end := w.left.Add(loginGrace); w.open == 0 && end.Before(w.ends) {
		return end
	}
	return w.ends
}

// loginTimeout expires a login that was not approved in time or that no client waits for any more.
func (c *core) loginTimeout(t *tx, id string) {
	l := t.logins[id]
	switch {
	case l == nil:
		t.after = append(t.after, func() { c.timers.logins.set(id, time.Time{}) })
	case t.mono.Before(c.loginDeadline(l)):
		t.after = append(t.after, func() { c.timers.logins.set(id, c.loginDeadline(l)) })
	default:
		waiting := c.loginWaits[id].open > 0
		t.after = append(t.after, func() {
			c.limited.expired.Write(t.mono, l.Source, "host", hostname(l.Hostinfo), "waiting", waiting)
		})
		c.endLogin(t, l, loginExpired)
	}
}
