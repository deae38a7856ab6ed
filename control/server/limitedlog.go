package server

import (
	"log/slog"
	"net/netip"
	"time"

	"ginnel/internal/share"
)

// strangerRate bounds the log lines of one kind that strangers cause. An honest machine whose key
// is wrong asks every 30 s at the most.
var logRate = share.Rate[netip.Prefix]{Each: 5, All: 60, Span: time.Minute}

// strangerLines are the log lines that anybody can cause who reaches the server, counted by the
// address that they come from.
type limitedLog struct {
	refused   *share.Lines[netip.Prefix] // registrations
	displaced *share.Lines[netip.Prefix] // channels, handshakes and logins of the address that has most
	expired   *share.Lines[netip.Prefix] // logins that nobody approved
}

func newLimitedLog(log *slog.Logger) limitedLog {
	return limitedLog{
		refused:   share.NewLines(log, slog.LevelInfo, "registration refused", logRate),
		displaced: share.NewLines(log, slog.LevelWarn, "limit reached, the oldest of an address is ended", logRate),
		expired:   share.NewLines(log, slog.LevelInfo, "login forgotten", logRate),
	}
}

// flush writes how many lines were left out lately.
func (l *limitedLog) flush(now time.Time) {
	l.refused.Flush(now)
	l.displaced.Flush(now)
	l.expired.Flush(now)
}
