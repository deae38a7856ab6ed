package server

import "time"

// loginGrace is how long a login waits without anybody who asks what has become of it. Clients ask
// at once, and keep asking while they want to come in; it must be longer than they wait before they
// connect again.
const loginGrace = time.Minute

// attendance says who asks what has become of a login: how many requests, and if none does, since
// when.
type loginWait struct {
	open int
	left time.Time
	ends time.Time // when the login does, however many ask
}

// attend notes that a login is asked about.
func (c *core) addWaiter(t *tx, l *login) {
	a := c.loginWaits[l.ID]
	a.open++
	c.setLoginWait(t, l, a)
}

// unattend notes that one who asked has gone. The login may have ended meanwhile.
func (c *core) removeWaiter(t *tx, l *login) {
	if t.logins[l.ID] == nil {
		return
	}
	a := c.loginWaits[l.ID]
	a.open--
	a.left = t.mono
	c.setLoginWait(t, l, a)
}

// noteLogin begins the time of a login, or begins it again if nobody asks about it. What is left of
// the whole is known by the time of day from before a restart, and by that alone.
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

// endLogin forgets a login and lets those go on who wait for it.
func (c *core) endLogin(t *tx, l *login, why loginOutcome) {
	t.endLogin(l, why)
	unset(t, c.loginWaits, l.ID)
	t.after = append(t.after, func() { c.timers.logins.set(l.ID, time.Time{}) })
}

// loginEnds returns when a login is forgotten.
func (c *core) loginDeadline(l *login) time.Time {
	a := c.loginWaits[l.ID]
	if end := a.left.Add(loginGrace); a.open == 0 && end.Before(a.ends) {
		return end
	}
	return a.ends
}

// loginDue forgets a login that nobody approved in time, or that nobody waits for any more.
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
