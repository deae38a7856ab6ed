package cli

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// LogFlags are the flags about the log.
type LogFlags struct {
	Level       Parsed[slog.Level]
	format      Parsed[string]
	connections bool
}

// Add adds the flags that every long-running command has.
func (l *LogFlags) Add(fs *pflag.FlagSet) {
	l.Level = Parsed[slog.Level]{Parse: parseLevel, Kind: "level", Text: "info"}
	l.format = Parsed[string]{Parse: parseFormat, Kind: "format"}
	fs.Var(&l.Level, "log-level", "least important `level` logged: debug, info, warn or error")
	fs.Var(&l.format, "log-format", "`format` of log lines: text or json (text on a terminal, json otherwise)")
}

// AddConnections adds the flag of commands that proxy connections.
func (l *LogFlags) AddConnections(fs *pflag.FlagSet) {
	fs.BoolVar(&l.connections, "log-connections", false, "log each proxied connection when it ends")
}

func parseLevel(s string) (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn,
		"error": slog.LevelError}
	if l, ok := levels[strings.ToLower(s)]; ok {
		return l, nil
	}
	return 0, fmt.Errorf("%q is not a log level: debug, info, warn or error is", s)
}

func parseFormat(s string) (string, error) {
	if slices.Contains([]string{"text", "json"}, s) {
		return s, nil
	}
	return "", fmt.Errorf("%q is not a log format: text or json is", s)
}

// Logger makes the logger that the flags ask for.
func (l *LogFlags) Logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.Level.Value, ReplaceAttr: readable}
	format := l.format.Value
	if format == "" {
		format = "json"
		if f, ok := w.(*os.File); ok && IsTerminal(f) {
			format = "text"
		}
	}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// readable writes durations with their unit and addresses as users write them, in JSON as in text.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if addr, ok := a.Value.Any().(net.Addr); ok {
		return slog.String(a.Key, addr.String())
	}
	return a
}

// ConnLogger returns the logger for lines about connections, or nil without --log-connections.
func (l *LogFlags) ConnLogger(log *slog.Logger) *slog.Logger {
	if !l.connections {
		return nil
	}
	return log
}

// IsTerminal reports whether a file is a character device. That is good enough to choose a format.
func IsTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}
