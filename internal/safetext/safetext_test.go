package safetext

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// Each danger of text from other hosts, and what is shown instead.
func TestLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"plain", "404 Not Found: no such page", "404 Not Found: no such page"},
		{"other scripts", "größer, 日本語, עברית, é 🙂", "größer, 日本語, עברית, é 🙂"},
		{"terminal colour", "\x1b[31mred\x1b[0m", "?[31mred?[0m"},
		{"terminal title", "\x1b]0;title\x07", "?]0;title?"},
		{"8-bit terminal escape", "a\u009b2Jb", "a?2Jb"},
		{"bare C1 byte", "a\x9b2Jb", "a?2Jb"},
		{"backspace and delete", "good\b\b\b\bevil\x7f", "good????evil?"},
		{"null", "a\x00b", "a?b"},
		{"line breaks", "first\nsecond\r\nthird\rfourth", "first second third fourth"},
		{"Unicode line breaks", "first\u0085second\u2028third\u2029fourth", "first second third fourth"},
		{"tabs and vertical tabs", "a\t\tb\v\fc", "a b c"},
		{"white space at the ends", " \n text\u3000\u00a0\n", "text"},
		{"only white space", " \n\t", ""},
		{"bidirectional override", "user\u202egpj.exe", "user?gpj.exe"},
		{"bidirectional embedding", "\u202a\u202b\u202c\u202d", "????"},
		{"bidirectional isolate", "\u2066a\u2067b\u2068c\u2069", "?a?b?c?"},
		{"bidirectional marks", "a\u200eb\u200fc\u061cd", "a?b?c?d"},
		{"zero width", "pay\u200bpal\ufeff", "pay?pal?"},
		{"tag characters", "a\U000e0041", "a?"},
		{"private use", "\ue000", "?"},
		{"unassigned", "\U000fffff", "?"},
		{"not UTF-8", "caf\xe9 \xff\xfe", "caf? ??"},
		{"surrogate half", "\xed\xa0\x80", "???"},
		{"replacement character", "\ufffd", "?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Line(tt.text, 100); got != tt.want {
				t.Errorf("Line(%q) = %q, want %q", tt.text, got, tt.want)
			}
		})
	}
}

// A text of exactly the limit is whole. A longer one is cut between characters.
func TestLineLimit(t *testing.T) {
	for _, tt := range []struct {
		text  string
		limit int
		want  string
	}{
		{"12345", 5, "12345"},
		{"123456", 5, "12345..."},
		{"1234\n", 4, "1234"},
		{"1234 6", 5, "1234..."},
		{"ééé", 5, "éé..."},
		{"éé", 4, "éé"},
		{"日本", 4, "日..."},
		{"a", 0, "..."},
		{strings.Repeat("x", 1<<20), 200, strings.Repeat("x", 200) + "..."},
	} {
		if got := Line(tt.text, tt.limit); got != tt.want {
			t.Errorf("Line(%.10q, %d) = %q, want %q", tt.text, tt.limit, got, tt.want)
		}
	}
}

func TestIsLine(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "https://login.example/a?b=c": true, "größer": true,
		" a": false, "a  b": false, "a\nb": false, "\x1b[2J": false, "a\u202eb": false, "\xff": false,
	} {
		if got := IsLine(text); got != want {
			t.Errorf("IsLine(%q) = %v, want %v", text, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("\x1b[31m a\u202e\n\xff日本", 7)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = max(0, limit%1000)
		got := Line(text, limit)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("Line(%q, %d) = %q, which is not printable", text, limit, got)
		}
		if len(got) > limit+len(ellipsis) {
			t.Errorf("Line(%q, %d) is %d bytes long", text, limit, len(got))
		}
		if again := Line(got, len(got)); again != got {
			t.Errorf("Line(%q) = %q, and Line of that is %q", text, got, again)
		}
	})
}
