package server

import (
	"net/netip"
	"testing"
)

func TestElect(t *testing.T) {
	lan := netip.MustParsePrefix("10.0.0.0/8")
	router := func(id int64, up bool) *node {
		return &node{rec: &nodeRecord{ID: id}, online: up, served: []netip.Prefix{lan, exitRoutes[0]}}
	}
	for name, c := range map[string]struct {
		before int64
		nodes  []*node
		want   int64
	}{
		"the oldest":                     {0, []*node{router(1, true), router(2, true)}, 1},
		"the only one online":            {0, []*node{router(1, false), router(2, true)}, 2},
		"the incumbent":                  {2, []*node{router(1, true), router(2, true)}, 2},
		"successor of an offline router": {1, []*node{router(1, false), router(2, true), router(3, true)}, 2},
		"the incumbent, none online":     {2, []*node{router(1, false), router(2, false)}, 2},
		"the oldest, none online":        {0, []*node{router(1, false), router(2, false)}, 1},
		"the incumbent is deleted":       {7, []*node{router(1, true)}, 1},
	} {
		got := elect(c.nodes, primaries{lan: c.before})
		if got[lan] != c.want || len(got) != 1 {
			t.Errorf("%s: got %v, want %d", name, got, c.want)
		}
	}
}
