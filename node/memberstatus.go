package node

import (
	"maps"
	"slices"
	"strings"
	"time"

	"ginnel/control"
)

// state returns the membership's part of the node's state. reason is empty after the first map;
// server is why there is no conversation with the server.
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

// hasJoined reports whether the node has received a map.
func (m *membership) hasJoined() bool { return isClosed(m.joined) }

// describe adds the membership to the node's status. The caller has read state before the map, so
// that a node that is running always has a map.
func (m *membership) describe(s *Status, state State, reason string, err error) {
	if state != StateRunning {
		s.State, s.Reason = state, reason
	} else if err != nil {
		s.Health = append(s.Health, serverIssue(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.expired {
		// Relays refuse an expired key, whatever the way to them is.
		s.Health = slices.DeleteFunc(s.Health, func(i HealthIssue) bool { return i.Code == homeRelayUnreachable })
		s.Health = append(s.Health, keyExpired)
	}
	if m.hasDuplicate() {
		s.Health = append(s.Health, duplicateKeyIssue)
	}
	if m.netmap != nil {
		s.Health = append(s.Health, messages(m.netmap)...)
	}
}

// hasDuplicate reports whether another process uses this node's key: the node has detected it, or
// the server says so. The caller holds mu.
func (m *membership) hasDuplicate() bool {
	return m.duplicate.present(time.Now()) || m.netmap != nil &&
		m.netmap.DisplayMessages[control.MessageDuplicateKey] != nil
}

// duplicateKeyIssue is the issue of a node whose state directory was copied.
var duplicateKeyIssue = HealthIssue{Code: "duplicate-key",
	Text: "another process uses this node's key: each takes the other's place in the network again and again",
	Mend: "give each node a state directory of its own (--state DIR), and remove the copy"}

// keyExpired is the issue of a node that has to log in again.
var keyExpired = HealthIssue{Code: "key-expired", Text: errKeyExpired.Error(),
	Mend: "log in on the page that the reason names, start the node with --authkey KEY, or have an administrator " +
		"prolong the key ('ginnel control nodes expire NODE --never')"}

// messages returns the messages of the server to the user.
func messages(nm *control.NetMap) (issues []HealthIssue) {
	for _, id := range slices.Sorted(maps.Keys(nm.DisplayMessages)) {
		if id == control.MessageDuplicateKey {
			continue // duplicateKeyIssue is shown instead
		}
		d := nm.DisplayMessages[id]
		issue := HealthIssue{Code: "control-message",
			Text: strings.TrimPrefix(strings.TrimSuffix(d.Title+": "+d.Text, ": "), ": ")}
		if a := d.PrimaryAction; a != nil {
			issue.Mend = strings.TrimPrefix(a.Label+": "+a.URL, ": ")
		}
		issues = append(issues, issue)
	}
	if len(issues) > 0 { // display messages take precedence over health texts
		return issues
	}
	for _, text := range nm.Health {
		issues = append(issues, HealthIssue{Code: "control-message", Text: text})
	}
	return issues
}

// serverIssue is the issue of a node with a map whose server cannot be reached.
func serverIssue(err error) HealthIssue {
	if isKeyChange(err) {
		return HealthIssue{Code: "server-key-changed", Text: ErrServerKeyChanged.Error() + ": " + err.Error(),
			Mend: "the node keeps its last network map; if the server was set up again, start the node with its new key " +
				"in --server-key; otherwise another host may be posing as the server"}
	}
	return HealthIssue{Code: "control-unreachable", Text: err.Error(),
		Mend: "the node keeps its last network map; check that the server can be reached"}
}
