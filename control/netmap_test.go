package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"
)

// stateOf describes a map in the form of the test vectors.
func stateOf(m *NetMap, now time.Time) map[string]any {
	peers := make(map[string]any)
	users := make(map[int64]bool)
	users[m.Self.User] = true
	for _, n := range m.Peers {
		users[n.User] = true
		var seen, expiry any
		if n.LastSeen.Equal(now) {
			seen = "(time of receipt)"
		} else if !n.LastSeen.IsZero() {
			seen = n.LastSeen
		}
		if !n.KeyExpiry.IsZero() {
			expiry = n.KeyExpiry
		}
		peers[strconv.FormatInt(n.ID, 10)] = map[string]any{
			"name": n.Name, "online": n.Online, "last_seen": seen, "home_derp": n.HomeDERP, "endpoints": notNil(n.Endpoints),
			"allowed_ips": notNil(n.AllowedIPs), "primary_routes": notNil(n.PrimaryRoutes), "key_expiry": expiry, "cap": n.Cap,
			"tags": notNil(n.Tags)}
	}
	caps, regions, profiles := []string{}, []string{}, [][]any{}
	for c := range m.Self.CapMap {
		caps = append(caps, c)
	}
	for id := range m.DERPMap.Regions {
		regions = append(regions, strconv.Itoa(id))
	}
	slices.Sort(regions)
	for _, id := range []int64{7, 8} {
		if users[id] {
			profiles = append(profiles, []any{id, m.Users[id].LoginName})
		}
	}
	return map[string]any{"peers": peers, "filter_rules": notNil(m.Filter), "dns": m.DNS, "domain": m.Domain,
		"self":         map[string]any{"name": m.Self.Name, "addresses": m.Self.Addresses, "caps": caps},
		"derp_regions": regions, "derp_home_params": m.DERPMap.HomeParams, "users": profiles}
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func throughJSON(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestVectorDeltas(t *testing.T) {
	now := time.Date(2026, 11, 22, 13, 0, 30, 0, time.UTC)
	var m *NetMap
	steps := vectors(t).Deltas.Steps
	if len(steps) != 21 {
		t.Errorf("%d steps, want 21", len(steps))
	}
	for _, step := range steps {
		var r MapResponse
		if err := json.Unmarshal(step.Response, &r); err != nil {
			t.Fatalf("%s: %v", step.Name, err)
		}
		before := m
		var frozen any
		if before != nil {
			frozen = throughJSON(t, before)
		}
		var err error
		if m, err = m.Apply(&r, now); err != nil {
			t.Fatalf("%s: %v", step.Name, err)
		}
		if before != nil && !reflect.DeepEqual(throughJSON(t, before), frozen) {
			t.Errorf("%s: the snapshot before was changed", step.Name)
		}
		got, want := throughJSON(t, stateOf(m, now)), throughJSON(t, step.After)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", step.Name, got, want)
		}
	}
}

func boolp(b bool) *bool { return &b }

// testNode returns a node with the fields that a peer needs.
func testNode(id int64) *Node {
	a := netip.AddrFrom4([4]byte{100, 64, byte(id >> 8), byte(id)})
	return &Node{ID: id, StableID: fmt.Sprint(id), Name: fmt.Sprintf("n%d.test.", id),
		Addresses: []netip.Prefix{netip.PrefixFrom(a, 32)},
		HomeDERP:  1, Online: boolp(true), MachineAuthorized: true}
}

func firstFrame(peers int) *MapResponse {
	r := &MapResponse{Node: testNode(1_000_000), Domain: "test"}
	for id := range peers {
		r.Peers = append(r.Peers, testNode(int64(id+1)))
	}
	return r
}

func mustApply(t testing.TB, m *NetMap, r *MapResponse) *NetMap {
	t.Helper()
	m, err := m.Apply(r, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestApplyFirstFrame(t *testing.T) {
	// "First frame with KeepAlive false MUST contain Node" (5.4)
	var m *NetMap
	if m, err := m.Apply(&MapResponse{KeepAlive: true}, time.Now()); m != nil || err != nil {
		t.Errorf("keepalive before the first frame: got %v, %v", m, err)
	}
	if _, err := m.Apply(&MapResponse{Domain: "x"}, time.Now()); !errors.Is(err, errNoSelf) {
		t.Errorf("first frame without the node: %v", err)
	}
	m = mustApply(t, nil, firstFrame(2))
	if next := mustApply(t, m, &MapResponse{KeepAlive: true}); next != m {
		t.Error("a keepalive made a new snapshot")
	}
	// "also honoured in keepalive frames"; the rest is not (5.5)
	next := mustApply(t, m, &MapResponse{KeepAlive: true, ControlTime: time.Now().Add(time.Hour), PopBrowserURL: "u",
		Domain: "other", PeersRemoved: []int64{1}})
	if next.BrowserURL != "u" || next.ClockSkew < 59*time.Minute || next.Domain != "test" || len(next.Peers) != 2 {
		t.Errorf("keepalive with news: got %+v", next)
	}
	// Entries that are not valid nodes are ignored.
	next = mustApply(t, m, &MapResponse{PeersChanged: []*Node{nil, {ID: 0}, {ID: -1}},
		PeersChangedPatch: []*PeerChange{nil},
		DERPMap:           &DERPMap{Regions: map[int]*DERPRegion{1: nil, 2: {Nodes: []*DERPNode{nil, {Name: "a"}}}}},
		UserProfiles:      []UserProfile{{ID: 3}}, DisplayMessages: map[string]*DisplayMessage{"a": nil, "b": {Title: "b"}}})
	// Messages for the user are made safe to show.
	next = mustApply(t, next, &MapResponse{DisplayMessages: map[string]*DisplayMessage{"b": {Title: "a\x1b[1m\nb",
		Text:          "\x07c",
		PrimaryAction: &DisplayAction{URL: "u\r", Label: "\x00l"}}}})
	if m := next.DisplayMessages["b"]; m.Title != "a?[1m b" || m.Text != "?c" ||
		*m.PrimaryAction != (DisplayAction{URL: "u", Label: "?l"}) {
		t.Errorf("message with control characters: %+v", m)
	}
	if len(next.Peers) != 2 || len(next.DERPMap.Regions) != 1 || len(next.DERPMap.Regions[2].Nodes) != 1 ||
		len(next.DisplayMessages) != 1 {
		t.Errorf("nulls were kept: %+v", next)
	}
}

func TestApplyLegacyDERP(t *testing.T) {
	r := firstFrame(3)
	r.Peers[0].HomeDERP, r.Peers[0].LegacyDERP = 0, "127.3.3.40:7"
	r.Peers[1].HomeDERP, r.Peers[1].LegacyDERP = 5, "127.3.3.40:7"
	r.Peers[2].HomeDERP, r.Peers[2].LegacyDERP = 0, "127.3.3.40:x"
	m := mustApply(t, nil, r)
	for i, want := range []int{7, 5, 0} {
		if got := m.Peers[i].HomeDERP; got != want {
			t.Errorf("peer %d: region %d, want %d", i+1, got, want)
		}
	}
}

// The sorted list of peers agrees with a plain map from ID to node under random changes.
func TestApplyAgainstNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := mustApply(t, nil, firstFrame(20))
	naive := make(map[int64]string)
	for _, n := range m.Peers {
		naive[n.ID] = n.Name
	}
	for round := range 2000 {
		r := &MapResponse{}
		for range rng.IntN(4) {
			id := rng.Int64N(60) + 1
			r.PeersRemoved = append(r.PeersRemoved, id)
			delete(naive, id)
		}
		for range rng.IntN(5) {
			n := testNode(rng.Int64N(60) + 1)
			n.Name = fmt.Sprint(round, rng.Uint32())
			r.PeersChanged = append(r.PeersChanged, n)
			naive[n.ID] = n.Name
		}
		m = mustApply(t, m, r)
		if len(m.Peers) != len(naive) || !slices.IsSortedFunc(m.Peers, compareNodes) {
			t.Fatalf("round %d: %d peers, want %d", round, len(m.Peers), len(naive))
		}
		for id, name := range naive {
			if n := m.Peer(id); n == nil || n.Name != name {
				t.Fatalf("round %d: peer %d is %v, want %s", round, id, n, name)
			}
		}
	}
	if m.Peer(1000) != nil {
		t.Error("found a peer that is not there")
	}
}

func TestPatchEveryField(t *testing.T) {
	var r MapResponse
	const text = `{"PeersChangedPatch":[{"NodeID":1,"DERPRegion":9,"Cap":140,"CapMap":{"a":[1]},"Endpoints":["192.0.2.1:1"],` +
		`"Key":"nodekey:07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c",` +
		`"DiscoKey":"discokey:dc2cca31e8e43bbd91dff7e475cca3347eb478107d5bd765aba4ae4a30c35d44","Online":false,` +
		`"LastSeen":"2026-01-01T00:00:00Z","KeyExpiry":"2027-01-01T00:00:00Z"}]}`
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	first := mustApply(t, nil, firstFrame(1))
	old, got := first.Peer(1), mustApply(t, first, &r).Peer(1)
	if got.HomeDERP != 9 || got.Cap != 140 || len(got.CapMap) != 1 || len(got.Endpoints) != 1 || got.Key.IsZero() ||
		got.DiscoKey.IsZero() ||
		*got.Online || got.LastSeen.Year() != 2026 || got.KeyExpiry.Year() != 2027 {
		t.Errorf("got %+v", got)
	}
	if !*old.Online || old.HomeDERP != 1 || !old.Key.IsZero() {
		t.Errorf("the old snapshot was changed: %+v", old)
	}
	want := *old
	if !reflect.DeepEqual(got.unpatchable(), want.unpatchable()) {
		t.Errorf("more than the patch was changed: %+v", got)
	}
}

func FuzzApply(f *testing.F) {
	for _, step := range vectors(f).Deltas.Steps {
		f.Add([]byte(step.Response))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var r MapResponse
		if json.Unmarshal(doc, &r) != nil {
			return
		}
		first := mustApply(t, nil, firstFrame(5))
		m, err := first.Apply(&r, time.Now())
		if err != nil || m == nil || m.Self == nil || m.DERPMap == nil {
			t.Fatalf("got %v, %v", m, err)
		}
		if !slices.IsSortedFunc(m.Peers, compareNodes) {
			t.Error("peers are not sorted")
		}
		if _, err := json.Marshal(m.Peers); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}

func BenchmarkApplyPatch10000(b *testing.B) {
	m := mustApply(b, nil, firstFrame(10_000))
	var r MapResponse
	if err := json.Unmarshal([]byte(`{"PeersChangedPatch":[{"NodeID":4711,"Online":false}]}`), &r); err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Apply(&r, now); err != nil {
			b.Fatal(err)
		}
	}
}

// A patch copies only one peer and the list of pointers.
func TestApplyPatchAllocates(t *testing.T) {
	m := mustApply(t, nil, firstFrame(1000))
	r := &MapResponse{PeersChangedPatch: []*PeerChange{{NodeID: 500, Online: boolp(false)}}}
	if n := testing.AllocsPerRun(100, func() { mustApply(t, m, r) }); n > 8 {
		t.Errorf("%v allocations for a patch, want at most 8", n)
	}
}
