package resolver

import (
	"sync"
	"time"
)

const (
	// outageTime is how long a server that has not answered is asked last. It is short, because
	// names that only this server knows are missing meanwhile.
	outageTime = 10 * time.Second
	outagesMax = 256 // remembered; then all are forgotten
)

// outages are the servers that have not answered. The zero value is ready for use.
type outages struct {
	mu sync.Mutex
	of map[Server]outage
}

type outage struct {
	noticed time.Time
	until   time.Time
}

// turn is a server and how long to wait for it.
type turn struct {
	server   Server
	patience time.Duration
}

// turns is the order in which to ask servers: as given, with those last that have not answered
// lately. When an outage is over, one lookup finds out in a short time whether the server is back.
func (o *outages) turns(servers []Server, now time.Time) []turn {
	o.mu.Lock()
	defer o.mu.Unlock()
	var up, down []turn
	for _, s := range servers {
		out, known := o.of[s]
		switch {
		case !known:
			up = append(up, turn{s, Patience})
		case !now.Before(out.until):
			out.until = now.Add(outageTime)
			o.of[s] = out
			up = append(up, turn{s, probeTime})
		default:
			down = append(down, turn{s, probeTime})
		}
	}
	if len(up) == 0 {
		for i := range down {
			down[i].patience = Patience
		}
	}
	return append(up, down...)
}

// begin notes that a server has not answered.
func (o *outages) begin(s Server, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil || len(o.of) >= outagesMax {
		o.of = make(map[Server]outage)
	}
	o.of[s] = outage{noticed: now, until: now.Add(outageTime)}
}

// end notes that a server has answered.
func (o *outages) end(s Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.of, s)
}

// since reports whether a server's outage was noticed after a time.
func (o *outages) since(s Server, t time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	out, known := o.of[s]
	return known && out.noticed.After(t)
}
