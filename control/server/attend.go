package server

import "time"

// loginGrace is how long a login waits without anybody who asks what has become of it. Clients ask
// at once, and keep asking while they want to come in; it must be longer than they wait before they
// connect again.
const loginGrace = time.Minute

// attendance says who asks what has become of a login: how many requests, and if none does, since
// when.
type attendance struct {
	open int
	left time.Time
	ends time.Time // when the login does, however many ask
}

// attend notes that a login is asked about.
func (c *core) attend(t *tx, l *login) {
	a := c.attended[l.ID]
	a.open++
	c.putAttendance(t, l, a)
}

// unattend notes that one who asked has gone. The login may have ended meanwhile.
func (c *core) unattend(t *tx, l *login) {
	if t.logins[l.ID] == nil {
		return
	}
	a := c.attended[l.ID]
	a.open--
	a.left = t.tick
	c.putAttendance(t, l, a)
}

// noteLogin begins the time of a login, or begins it again if nobody asks about it. What is left of
// the whole is known by the time of day from before a restart, and by that alone.
func (c *core) noteLogin(t *tx, l *login) {
	a := c.attended[l.ID]
	if a.left = t.tick; a.ends.IsZero() {
		a.ends = t.tick.Add(min(l.Until.Sub(t.now), loginLife))
	}
	c.putAttendance(t, l, a)
}

func (c *core) putAttendance(t *tx, l *login, a attendance) {
	set(t, c.attended, l.ID, a)
	t.after = append(t.after, func() { c.deadlines.set(l.ID, c.loginEnds(l)) })
}

// endLogin forgets a login and lets those go on who wait for it.
func (c *core) endLogin(t *tx, l *login, why loginEnd) {
	t.endLogin(l, why)
	unset(t, c.attended, l.ID)
	t.after = append(t.after, func() { c.deadlines.set(l.ID, time.Time{}) })
}

// loginEnds returns when a login is forgotten.
func (c *core) loginEnds(l *login) time.Time {
	a := c.attended[l.ID]
	if end := a.left.Add(loginGrace); a.open == 0 && end.Before(a.ends) {
		return end
	}
	return a.ends
}

// loginDue forgets a login that nobody approved in time, or that nobody waits for any more.
func (c *core) loginDue(t *tx, id string) {
	l := t.logins[id]
	switch {
	case l == nil:
		t.after = append(t.after, func() { c.deadlines.set(id, time.Time{}) })
	case t.tick.Before(c.loginEnds(l)):
		t.after = append(t.after, func() { c.deadlines.set(id, c.loginEnds(l)) })
	default:
		waiting := c.attended[id].open > 0
		t.after = append(t.after, func() {
			c.lines.forgotten.Write(t.tick, l.Source, "host", hostname(l.Hostinfo), "waiting", waiting)
		})
		c.endLogin(t, l, loginForgotten)
	}
}
