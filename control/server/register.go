package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// The reasons of a refusal, as clients receive them. Clients and scripts know some of these
// texts.
var (
	errOtherMachine = errors.New("node exists with a different machine key")
	errExtending    = errors.New("extending key is not allowed")
	errInvalidKey   = errors.New("invalid pre auth key")
	errKeyExpired   = errors.New("authkey expired")
	errKeyUsed      = errors.New("authkey already used")
	errKeyRevoked   = errors.New("authkey revoked")
	errLoginRefused = errors.New("the login was refused")
	errBadFollowup  = errors.New("malformed followup URL")
	errBlocked      = errors.New("an administrator has deleted this machine's node and blocked the machine")
	errNoNodeKey    = errors.New("the request has no node key")
)

// registration is a request to register, and its result.
type registration struct {
	machine key.MachinePublic
	source  netip.Prefix // address of the request
	req     *control.RegisterRequest

	resp control.RegisterResponse
	wait *login // not nil: the result depends on this login
}

// register decides on a request, in the order of section 4.4 of the control specification. An error
// refuses the request.
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

// logOut ends the registration of a node: its key expires or, if it is ephemeral, it is deleted.
func (c *core) logOut(t *tx, n *node) {
	if n.rec.Ephemeral {
		t.deleteNode(n.rec.ID)
		return
	}
	rec := *n.rec
	rec.Expiry = t.now.UTC()
	t.putNode(&rec)
}

// reregister answers a request without a pre-auth key from a node that is registered already.
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

// authorize answers that the node is registered.
func (t *tx) authorize(r *registration, n *node) {
	if u := t.owner(n); u != nil {
		r.resp.User, r.resp.Login = u.wire(), u.login()
	}
	r.resp.MachineAuthorized = true
}

// registerByKey admits a node with a pre-auth key. n is the node that already has the request's
// node key, or nil.
func (c *core) registerByKey(t *tx, r *registration, n *node) error {
	k := t.keys[t.byHash[hashSecret(r.req.Auth.AuthKey)]]
	if k == nil || k.Hash != hashSecret(r.req.Auth.AuthKey) {
		return errInvalidKey
	}
	if n != nil && !n.expired && n.rec.AuthKey == k.ID {
		t.noteContact(n)
		t.authorize(r, n) // a repeated request, for example after a restart, even if the key is used up
		return nil
	}
	if err := k.usable(t.now); err != nil {
		return err
	}
	tags, err := t.tagsByKey(k, r.req.Hostinfo)
	if err != nil {
		return err
	}
	a := admission{r: r, user: k.User, tags: tags, takeOver: k.TakeOver, authKey: k.ID}
	a.ephemeral = k.Ephemeral || r.req.Ephemeral // a node may be ephemeral although its key does not require it
	if n, err = c.admit(t, &a); err != nil {
		return err
	}
	used := *k
	used.Used = t.now.UTC()
	t.putKey(&used)
	t.authorize(r, n)
	return nil
}

// usable returns nil if the key admits nodes, and otherwise the reason.
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

// tagsByKey returns the tags of a node that a key admits. If the node requests tags, each must be a
// tag of the key, or the policy must let the key's tags or, for a key without tags, its user assign
// it. If the node requests none, it gets the key's tags.
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

// requestedTags returns the tags that a node requests, or an error unless all of them are allowed.
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

// keyExpiry returns when a node key that is registered now expires. Keys of tagged nodes do not
// expire, because nobody would log in on those machines again.
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

// hostname returns the host name that a machine reports.
func hostname(h *control.Hostinfo) string {
	if h == nil {
		return ""
	}
	return h.Hostname
}
