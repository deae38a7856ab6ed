package node

import (
	"context"
	"net"
	"slices"
	"time"

	"ginnel/internal/sys"
)

const (
	changeDebounce = time.Second      // changes of the network come in bursts
	addressPoll    = 10 * time.Second // where the system does not tell
)

// watchNetwork tells transport and relays when the host's addresses or routes have changed.
func (n *Node) watchNetwork(ctx context.Context) {
	events, err := sys.NetworkEvents(ctx, n.life.wg.Go)
	if err != nil {
		n.log.Debug("the system does not tell of network changes; looking every few seconds", "err", err)
		events = pollAddresses(ctx, &n.life.wg)
	}
	for {
		if _, ok := <-events; !ok {
			if ctx.Err() != nil {
				return
			}
			n.log.Debug("the system does not tell of network changes any more; looking every few seconds")
			events = pollAddresses(ctx, &n.life.wg)
			continue
		}
		select {
		case <-time.After(changeDebounce):
		case <-ctx.Done():
			return
		}
		drain(events)
		n.log.Debug("network changed")
		n.NetworkChanged()
	}
}

// NetworkChanged has the node look at its network anew, as it does when the system tells of a
// change.
func (n *Node) NetworkChanged() {
	n.plane.networkChanged()
}

func drain(events <-chan struct{}) {
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// starter starts goroutines that somebody waits for.
type starter interface{ Go(f func()) }

// pollAddresses reports changes of the interfaces' addresses until ctx ends.
func pollAddresses(ctx context.Context, wg starter) <-chan struct{} {
	events := make(chan struct{}, 1)
	wg.Go(func() { comparePolls(ctx, events) })
	return events
}

func comparePolls(ctx context.Context, events chan<- struct{}) {
	defer close(events)
	ticker := time.NewTicker(addressPoll)
	defer ticker.Stop()
	last := interfaceAddrs()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if now := interfaceAddrs(); !slices.Equal(now, last) {
			last = now
			notify(events)
		}
	}
}

func interfaceAddrs() (all []string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		all = append(all, a.String())
	}
	slices.Sort(all)
	return all
}

// notify leaves a signal if there is none yet.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
