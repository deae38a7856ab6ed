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
	a := c.loginWaits[l.ID]
	a.open++
	c.setLoginWait(t, l, a)
}

// removeWaiter records that a request stopped waiting. The login may have ended before.
func (c *core) removeWaiter(t *tx, l *login) {
	if t.logins[l.ID] == nil {
		return
	}
	a := c.loginWaits[l.ID]
	a.open--
	a.left = t.mono
	c.setLoginWait(t, l, a)
}

// resetLoginTimer starts the timer of a login, or restarts loginGrace if no request waits for it.
// After a restart of the server, only the wall clock tells how much of the login's life is left.
func (c *core) resetLoginTimer(t *tx, l *login) {
	a := c.loginWaits[l.ID]
	if a.left = t.mono; a.ends.IsZero() {
		a.ends = t.mono.Add(min(l.Until.Sub(t.now), loginLife))
	}
	c.setLoginWait(t, l, a)
}

func (c *core) setLoginWait(t *tx, l *login, a loginWait) {
	set(t, c.loginWaits, l.ID, a)
	t.after = append(t.after, func() { c.timers.logins.set(l.ID, c.loginDeadline(l)) })
}

// endLogin deletes a login and wakes the requests that wait for it.
func (c *core) endLogin(t *tx, l *login, why loginOutcome) {
	t.endLogin(l, why)
	unset(t, c.loginWaits, l.ID)
	t.after = append(t.after, func() { c.timers.logins.set(l.ID, time.Time{}) })
}

// loginDeadline returns when a login expires.
func (c *core) loginDeadline(l *login) time.Time {
	a := c.loginWaits[l.ID]
	if end := a.left.Add(loginGrace); a.open == 0 && end.Before(a.ends) {
		return end
	}
	return a.ends
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
