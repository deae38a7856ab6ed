package resolver

import (
	"sync"
	"time"
)

const (
	// outageTime is how long a server that has not answered is asked last. It is short, because names
	// that only this server knows cannot be resolved meanwhile.
	outageTime = 10 * time.Second
	outagesMax = 256 // beyond it, all outages are forgotten
)

// outages holds the servers that have not answered. The zero value is ready for use.
type outages struct {
	mu sync.Mutex
	of map[Server]outage
}

type outage struct {
	noticed time.Time
	until   time.Time
}

// attempt is a server to ask and how long to wait for its answer.
type attempt struct {
	server  Server
	timeout time.Duration
}

// attempts returns the order in which to ask servers: as given, except that those in an outage come
// last. When an outage is over, one lookup asks the server again in its place, with probeTimeout.
func (o *outages) attempts(servers []Server, now time.Time) []attempt {
	o.mu.Lock()
	defer o.mu.Unlock()
	var up, down []attempt
	for _, s := range servers {
		out, known := o.of[s]
		switch {
		case !known:
			up = append(up, attempt{s, Timeout})
		case !now.Before(out.until):
			out.until = now.Add(outageTime)
			o.of[s] = out
			up = append(up, attempt{s, probeTimeout})
		default:
			down = append(down, attempt{s, probeTimeout})
		}
	}
	if len(up) == 0 {
		for i := range down {
			down[i].timeout = Timeout
		}
	}
	return append(up, down...)
}

// begin records that a server has not answered.
func (o *outages) begin(s Server, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil || len(o.of) >= outagesMax {
		o.of = make(map[Server]outage)
	}
	o.of[s] = outage{noticed: now, until: now.Add(outageTime)}
}

// end records that a server has answered.
func (o *outages) end(s Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.of, s)
}

// since reports whether a server is in an outage that was noticed after t.
func (o *outages) since(s Server, t time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	out, known := o.of[s]
	return known && out.noticed.After(t)
}
