package server

import (
	"log/slog"
	"net/netip"
	"time"

	"ginnel/internal/share"
)

// clientLogs are the log messages that anybody who reaches the server can cause. They are limited
// for each address and in total.
type clientLogs struct {
	full       *share.Lines[netip.Prefix]
	unadmitted *share.Lines[netip.Prefix]
	accepting  *share.Lines[netip.Prefix] // counted without an address
}

func newClientLogs(log *slog.Logger) clientLogs {
	r := share.Rate[netip.Prefix]{Each: 2, All: 30, Span: time.Minute}
	return clientLogs{
		full:       share.NewLines(log, slog.LevelWarn, "relay full", r),
		unadmitted: share.NewLines(log, slog.LevelWarn, "admission controller not reachable, client admitted", r),
		accepting:  share.NewLines(log, slog.LevelWarn, "accepting a connection failed", r),
	}
}
