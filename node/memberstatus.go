package node

import (
	"maps"
	"slices"
	"strings"
	"time"

	"ginnel/control"
)

// What the node's status says of its membership.

// state is what the node's status says of the membership; reason is empty once the first map is
// there.
func (m *membership) state() (state State, reason string, server error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.login != "":
		return StateNeedsLogin, "waiting to be approved at " + m.login, m.err
	case m.expired:
		return StateNeedsLogin, errKeyExpired.Error(), m.err
	case m.hasJoined():
		return StateRunning, "", m.err
	case m.err != nil:
		return StateStarting, "joining: " + m.err.Error(), m.err
	}
	return StateStarting, "joining", nil
}

// hasJoined reports whether the node has had a map.
func (m *membership) hasJoined() bool { return isClosed(m.joined) }

// describe adds to the node's status what is known of the server. The state is that of before the
// map was looked at, so that a node that is running has one.
func (m *membership) describe(s *Status, state State, reason string, err error) {
	if state != StateRunning {
		s.State, s.Reason = state, reason
	} else if err != nil {
		s.Health = append(s.Health, serverIssue(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.expired {
		// Relays refuse an expired key, which nothing about the way to them can mend.
		s.Health = slices.DeleteFunc(s.Health, func(i HealthIssue) bool { return i.Code == homeRelayUnreachable })
		s.Health = append(s.Health, keyExpired)
	}
	if m.hasRival() {
		s.Health = append(s.Health, duplicateKey)
	}
	if m.netmap != nil {
		s.Health = append(s.Health, messages(m.netmap)...)
	}
}

// hasRival reports whether another process uses this node's key, as the node has noticed or was
// told.
func (m *membership) hasRival() bool {
	return m.rival.present(time.Now()) || m.netmap != nil && m.netmap.DisplayMessages[control.MessageDuplicateKey] != nil
}

// duplicateKey is for a node whose state directory was copied.
var duplicateKey = HealthIssue{Code: "duplicate-key", Text: "another process uses this node's key: each takes the other's place in the network again and again",
	Mend: "give each node a state directory of its own (--state DIR), and remove the copy"}

// keyExpired is for a node that has to be let in again.
var keyExpired = HealthIssue{Code: "key-expired", Text: errKeyExpired.Error(),
	Mend: "log in on the page that the reason names, start the node with --authkey KEY, or have an administrator prolong the key " +
		"('ginnel control nodes expire NODE --never')"}

// messages are what the server has to say to the user.
func messages(nm *control.NetMap) (issues []HealthIssue) {
	for _, id := range slices.Sorted(maps.Keys(nm.DisplayMessages)) {
		if id == control.MessageDuplicateKey {
			continue // which the node says in words of its own
		}
		d := nm.DisplayMessages[id]
		issue := HealthIssue{Code: "control-message", Text: strings.TrimPrefix(strings.TrimSuffix(d.Title+": "+d.Text, ": "), ": ")}
		if a := d.PrimaryAction; a != nil {
			issue.Mend = strings.TrimPrefix(a.Label+": "+a.URL, ": ")
		}
		issues = append(issues, issue)
	}
	if len(issues) > 0 { // which take precedence
		return issues
	}
	for _, text := range nm.Health {
		issues = append(issues, HealthIssue{Code: "control-message", Text: text})
	}
	return issues
}

// serverIssue is for a node that has a map and no conversation.
func serverIssue(err error) HealthIssue {
	if isKeyChange(err) {
		return HealthIssue{Code: "server-key-changed", Text: ErrServerKeyChanged.Error() + ": " + err.Error(),
			Mend: "the mesh goes on with what it knows; if the server was made anew, start the node with its new key in --server-key, " +
				"else somebody poses as the server"}
	}
	return HealthIssue{Code: "control-unreachable", Text: err.Error(),
		Mend: "the mesh goes on with what it knows; check that the server can be reached"}
}
