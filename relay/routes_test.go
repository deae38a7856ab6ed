package relay

import (
	"testing"

	"ginnel/key"
)

// The table of routes is bounded. The end of one region leaves the routes through others.
func TestRouteTable(t *testing.T) {
	var rt routeTable
	a, b := new(region), new(region)
	for i := range maxRoutes + 100 {
		rt.learn(key.NodePublic{byte(i), byte(i >> 8), 1}, a)
	}
	if len(rt.m) != maxRoutes {
		t.Errorf("%d routes", len(rt.m))
	}
	last := key.NodePublic{byte((maxRoutes + 99) % 256), byte((maxRoutes + 99) >> 8), 1}
	rt.learn(last, b)
	rt.forget(last, a)
	if rt.get(last) != b {
		t.Error("route through another region was forgotten")
	}
	rt.forgetRegion(a)
	if len(rt.m) != 1 {
		t.Errorf("%d routes left, want 1", len(rt.m))
	}
	rt.forget(last, b)
	if rt.get(last) != nil {
		t.Error("route not forgotten")
	}
}
