package relay

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		"  two\r\n lines\t ":            "two lines",
		"\x1b[2Jgone\x7f\u009b":         "?[2Jgone??",
		"not \xff UTF-8, \u202eright":   "not ? UTF-8, ?right",
		"Zürich":                        "Zürich",
		strings.Repeat("é", maxExcerpt): strings.Repeat("é", maxExcerpt/2) + "...",
	} {
		if got := excerpt(text); got != want {
			t.Errorf("excerpt(%q) = %q, want %q", text, got, want)
		}
	}
	err := error(printableError{errors.Join(io.EOF, errors.New("a\x1b"))})
	if err.Error() != "EOF a?" || !errors.Is(err, io.EOF) {
		t.Errorf("got %q", err)
	}
}
