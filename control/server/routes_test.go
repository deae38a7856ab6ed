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
		"the oldest":                {0, []*node{router(1, true), router(2, true)}, 1},
		"the one that is there":     {0, []*node{router(1, false), router(2, true)}, 2},
		"the holder":                {2, []*node{router(1, true), router(2, true)}, 2},
		"another than the holder":   {1, []*node{router(1, false), router(2, true), router(3, true)}, 2},
		"the holder, none is there": {2, []*node{router(1, false), router(2, false)}, 2},
		"the oldest, none is there": {0, []*node{router(1, false), router(2, false)}, 1},
		"the holder is gone":        {7, []*node{router(1, true)}, 1},
	} {
		got := elect(c.nodes, primaries{lan: c.before})
		if got[lan] != c.want || len(got) != 1 {
			t.Errorf("%s: got %v, want %d", name, got, c.want)
		}
	}
}
