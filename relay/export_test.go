package relay

import "time"

// What external tests need of the package's inside.
const (
	IdleLimit      = idleLimit
	IdleInterval   = idleInterval
	PingLimit      = pingLimit
	ClientPatience = clientPatience
)

// ClientQueueTotal is how many bytes a client queues at most.
var ClientQueueTotal = clientLimits.Total

// CloseIdle closes idle regions, as the pool itself does from time to time.
func (p *Pool) CloseIdle(now time.Time) (inUse bool) { return p.closeIdle(now) }
