package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

// What a machine is told whose request is refused; the texts are those that clients and scripts
// know.
var (
	errOtherMachine = errors.New("node exists with a different machine key")
	errExtending    = errors.New("extending key is not allowed")
	errInvalidKey   = errors.New("invalid pre auth key")
	errKeyExpired   = errors.New("authkey expired")
	errKeyUsed      = errors.New("authkey already used")
	errKeyRevoked   = errors.New("authkey revoked")
	errLoginRefused = errors.New("the login was refused")
	errBadFollowup  = errors.New("the login to follow is malformed")
	errBlocked      = errors.New("an administrator has deleted this machine's node and blocked the machine")
	errNoNodeKey    = errors.New("the request names no node key")
)

// registration is a request to register, and what comes of it.
type registration struct {
	machine key.MachinePublic
	source  netip.Prefix // where the request comes from
	req     *control.RegisterRequest

	resp control.RegisterResponse
	wait *login // not decided until this login has ended
}

// register decides on a request, in the order of section 4.4 of the control specification. An error
// refuses it.
func (c *core) register(t *tx, r *registration) error {
	r.resp, r.wait = control.RegisterResponse{}, nil
	if r.req.NodeKey.IsZero() {
		return errNoNodeKey
	}
	if err := r.req.NodeKey.Check(); err != nil {
		return fmt.Errorf("the request's node %w", err)
	}
	n := t.nodeByKey(r.req.NodeKey)
	if n != nil && n.rec.Machine != r.machine {
		return errOtherMachine
	}
	if t.blocked[r.machine] != nil {
		return errBlocked
	}
	hasKey := r.req.Auth != nil && r.req.Auth.AuthKey != ""
	switch expiry := r.req.Expiry; {
	case !expiry.IsZero() && expiry.Before(t.now):
		if n != nil {
			c.logOut(t, n)
		}
		r.resp.NodeKeyExpired = true
		return nil
	case n != nil && !hasKey:
		return t.reregister(r, n)
	case r.req.Followup != "" && !hasKey:
		return c.followUp(t, r)
	case hasKey:
		return c.registerByKey(t, r, n)
	}
	return c.startLogin(t, r)
}

// logOut ends a node's registration.
func (c *core) logOut(t *tx, n *node) {
	if n.rec.Ephemeral {
		t.deleteNode(n.rec.ID)
		return
	}
	rec := *n.rec
	rec.Expiry = t.now.UTC()
	t.putNode(&rec)
}

// known answers a node that comes back.
func (t *tx) reregister(r *registration, n *node) error {
	switch {
	case n.expired:
		r.resp.NodeKeyExpired = true
	case !r.req.Expiry.IsZero():
		return errExtending
	default:
		t.noteContact(n)
		t.authorize(r, n)
	}
	return nil
}

// accept answers that the node is registered.
func (t *tx) authorize(r *registration, n *node) {
	if u := t.owner(n); u != nil {
		r.resp.User, r.resp.Login = u.wire(), u.login()
	}
	r.resp.MachineAuthorized = true
}

// registerByKey lets a node in that has a pre-auth key. n is the node that has its node key
// already, or nil.
func (c *core) registerByKey(t *tx, r *registration, n *node) error {
	k := t.keys[t.byHash[hashSecret(r.req.Auth.AuthKey)]]
	if k == nil || k.Hash != hashSecret(r.req.Auth.AuthKey) {
		return errInvalidKey
	}
	if n != nil && !n.expired && n.rec.AuthKey == k.ID {
		t.noteContact(n)
		t.authorize(r, n) // the same request again, as after a restart: the key may have been used up by then
		return nil
	}
	if err := k.usable(t.now); err != nil {
		return err
	}
	tags, err := t.tagsByKey(k, r.req.Hostinfo)
	if err != nil {
		return err
	}
	e := admission{r: r, user: k.User, tags: tags, takeOver: k.TakeOver, authKey: k.ID}
	e.ephemeral = k.Ephemeral || r.req.Ephemeral // a node may ask for less than the key gives
	if n, err = c.admit(t, &e); err != nil {
		return err
	}
	used := *k
	used.Used = t.now.UTC()
	t.putKey(&used)
	t.authorize(r, n)
	return nil
}

// usable returns why a key lets nobody in.
func (k *authKey) usable(now time.Time) error {
	switch {
	case k.Revoked:
		return errKeyRevoked
	case !k.Expiry.IsZero() && !now.Before(k.Expiry):
		return errKeyExpired
	case !k.Reusable && !k.Used.IsZero():
		return errKeyUsed
	}
	return nil
}

// tagsByKey returns the tags of a node that a key lets in: those of the key, or what the node asks
// for if either the key has it or its user may give it.
func (t *tx) tagsByKey(k *authKey, h *control.Hostinfo) ([]string, error) {
	if h == nil || len(h.RequestTags) == 0 {
		return k.Tags, nil
	}
	u := t.users[k.User]
	return t.requestedTags(h.RequestTags, func(tag string) bool {
		for _, own := range k.Tags {
			if own == tag || t.policy.TagAllowed(own, tag) {
				return true
			}
		}
		return len(k.Tags) == 0 && u != nil && t.policy.TagAllowed(u.Name, tag)
	})
}

// requestedTags returns the tags that a node asks for, if it may have all of them.
func (t *tx) requestedTags(tags []string, allowed func(tag string) bool) ([]string, error) {
	var refused []string
	for _, tag := range tags {
		if !validTag(tag) || !allowed(tag) {
			refused = append(refused, tag)
		}
	}
	if len(refused) > 0 || len(tags) > maxTags {
		return nil, fmt.Errorf("requested tags [%s] are invalid or not permitted", strings.Join(refused, " "))
	}
	return sortedTags(tags), nil
}

// keyExpiry returns when a key that is registered now expires. Tagged nodes are machines that
// nobody logs in on again.
func (c *core) keyExpiry(t *tx, requested time.Time, tags []string) time.Time {
	if len(tags) > 0 || c.cfg.NodeExpiry <= 0 {
		return time.Time{}
	}
	at := t.now.Add(c.cfg.NodeExpiry).UTC()
	if requested.After(t.now) && requested.Before(at) {
		return requested.UTC()
	}
	return at
}

// hostname returns what a machine calls itself.
func hostname(h *control.Hostinfo) string {
	if h == nil {
		return ""
	}
	return h.Hostname
}
