package server

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/internal/share"
)

const (
	loginPath   = "/register/"
	loginPrefix = "ginnel-login-"
	loginDigits = 24
	loginLife   = 15 * time.Minute
	// maxLogins limits the waiting logins. Machine keys cost nothing, so beyond the limit a new
	// login replaces the oldest one of the source address that has the most. A machine has at most
	// one login for each node key and maxMachineLogins in total; a further one replaces its oldest.
	maxLogins        = 1000
	maxMachineLogins = 4
)

// parseLoginID checks a login ID, which is the last element of a login's URL.
func parseLoginID(s string) (string, bool) {
	digits, ok := strings.CutPrefix(s, loginPrefix)
	return s, ok && len(digits) == loginDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// startLogin answers a registration with the URL of a login, which an administrator must approve. A
// repeated registration gets the same login.
func (c *core) startLogin(t *tx, r *registration) error {
	var own []*login
	for _, l := range t.logins {
		if l.Machine != r.machine {
			continue
		}
		if l.Key == r.req.NodeKey && t.mono.Before(c.loginDeadline(l)) {
			c.resetLoginTimer(t, l)
			r.resp.AuthURL = c.loginURL(l.ID)
			return nil
		}
		own = append(own, l)
	}
	if h := r.req.Hostinfo; h != nil && hostinfoTooLarge(h) {
		return errHostinfo
	}
	if len(own) >= maxMachineLogins {
		c.endLogin(t, slices.MinFunc(own, olderLogin), loginExpired)
	} else if len(t.logins) >= maxLogins {
		c.displaceLogin(t, r.source)
	}
	l := &login{
		ID:        loginPrefix + randomHex(loginDigits/2),
		Machine:   r.machine,
		Key:       r.req.NodeKey,
		Cap:       r.req.Version,
		Expiry:    r.req.Expiry,
		Until:     t.now.Add(loginLife).UTC(),
		Hostinfo:  r.req.Hostinfo,
		Ephemeral: r.req.Ephemeral,
		Source:    r.source,
	}
	t.putLogin(l)
	c.resetLoginTimer(t, l)
	r.resp.AuthURL = c.loginURL(l.ID)
	return nil
}

func olderLogin(a, b *login) int {
	return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.ID, b.ID))
}

// displaceLogin ends a login to make room for one from the given source.
func (c *core) displaceLogin(t *tx, source netip.Prefix) {
	var held share.Table[netip.Prefix, *login]
	for _, l := range slices.SortedFunc(maps.Values(t.logins), olderLogin) {
		held.Add(l.Source, l)
	}
	if _, oldest, ok := held.Displace(source); ok {
		c.endLogin(t, oldest, loginExpired)
		t.after = append(t.after, func() {
			c.limited.displaced.Write(t.mono, oldest.Source, "limit", "logins", "source", oldest.Source)
		})
	}
}

func (c *core) loginURL(id string) string { return c.cfg.url() + loginPath + id }

// followUp finds the login that a registration waits for. If the login no longer exists, followUp
// starts a new one.
func (c *core) followUp(t *tx, r *registration) error {
	_, end, ok := strings.Cut(r.req.Followup, loginPath)
	id, valid := parseLoginID(end)
	if !ok || !valid {
		return errBadFollowup
	}
	l := t.logins[id]
	if l == nil || l.Machine != r.machine || l.Key != r.req.NodeKey {
		return c.startLogin(t, r)
	}
	c.addWaiter(t, l)
	r.wait = l
	return nil
}

// approve admits the node of a login as a node of user u. The node gets the tags that it requests
// if the policy allows u to assign them.
func (c *core) approve(t *tx, l *login, u *user) (*node, error) {
	r := &registration{machine: l.Machine, req: &control.RegisterRequest{
		Version: l.Cap, NodeKey: l.Key, Expiry: l.Expiry, Hostinfo: l.Hostinfo,
	}}
	a := admission{r: r, user: u.ID, ephemeral: l.Ephemeral}
	if l.Hostinfo != nil && len(l.Hostinfo.RequestTags) > 0 {
		allowed := func(tag string) bool { return t.policy.TagAllowed(u.Name, tag) }
		tags, err := t.requestedTags(l.Hostinfo.RequestTags, allowed)
		if err != nil {
			return nil, err
		}
		a.tags = tags
	}
	n, err := c.admit(t, &a)
	if err != nil {
		return nil, err
	}
	c.endLogin(t, l, loginApproved)
	return n, nil
}

// handleRegister answers POST /machine/register. It holds the request until the login that it waits
// for has ended.
func (nc *noiseConn) handleRegister(w http.ResponseWriter, r *http.Request) {
	var req control.RegisterRequest
	if !readJSON(w, r, &req) || !nc.supported(w, req.Version) {
		return
	}
	reg := &registration{machine: nc.machine(), source: nc.source, req: &req}
	defer nc.leaveLogin(r.Context(), reg)
	for {
		err := nc.core.change(r.Context(), func(t *tx) error { return nc.core.register(t, reg) })
		switch {
		case r.Context().Err() != nil:
			return
		case isStoreError(err):
			nc.refuse(w, err)
			return
		case err != nil:
			nc.core.metrics.registrations.WithLabelValues(resultRefused).Inc()
			nc.core.limited.refused.Write(time.Now(), nc.source, "machine", nc.machine(), "remote", r.RemoteAddr, "err", err)
			writeJSON(w, http.StatusOK, responseTo(err))
			return
		case reg.wait == nil:
			nc.answer(w, &reg.resp)
			return
		}
		select {
		case <-reg.wait.endc:
			if reg.wait.refused {
				writeJSON(w, http.StatusOK, responseTo(errLoginRefused))
				return
			}
		case <-r.Context().Done():
			return
		case <-nc.core.stopc:
			nc.refuse(w, errClosed)
			return
		}
	}
}

// leaveLogin records that a registration no longer waits for its login.
func (nc *noiseConn) leaveLogin(ctx context.Context, reg *registration) {
	if l := reg.wait; l != nil {
		nc.core.change(context.WithoutCancel(ctx), func(t *tx) error { nc.core.removeWaiter(t, l); return nil })
	}
}

func (nc *noiseConn) answer(w http.ResponseWriter, resp *control.RegisterResponse) {
	result := resultPending
	switch {
	case resp.MachineAuthorized:
		nc.admitted()
		result = resultRegistered
	case resp.NodeKeyExpired:
		result = resultExpired
	}
	nc.core.metrics.registrations.WithLabelValues(result).Inc()
	writeJSON(w, http.StatusOK, resp)
}
