package server

import (
	"log/slog"
	"net/netip"
	"time"

	"ginnel/internal/share"
)

// logRate limits the log lines of one kind that unauthenticated clients cause. A well-behaved
// client whose key is wrong registers at most once in 30 s.
var logRate = share.Rate[netip.Prefix]{Each: 5, All: 60, Span: time.Minute}

// limitedLog writes the log lines that any client can cause. It limits them by source address.
type limitedLog struct {
	refused   *share.Lines[netip.Prefix] // registrations
	displaced *share.Lines[netip.Prefix] // connections, handshakes and logins that made room for another
	expired   *share.Lines[netip.Prefix] // logins that were not approved
}

func newLimitedLog(log *slog.Logger) limitedLog {
	return limitedLog{
		refused:   share.NewLines(log, slog.LevelInfo, "registration refused", logRate),
		displaced: share.NewLines(log, slog.LevelWarn, "limit reached, oldest entry of the busiest source ended", logRate),
		expired:   share.NewLines(log, slog.LevelInfo, "login expired", logRate),
	}
}

// flush logs how many lines were suppressed.
func (l *limitedLog) flush(now time.Time) {
	l.refused.Flush(now)
	l.displaced.Flush(now)
	l.expired.Flush(now)
}
