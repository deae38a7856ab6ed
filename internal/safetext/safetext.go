// Package safetext makes text from other hosts safe to show: error pages of servers, messages of a
// coordination server, names that clients ask for. Such text ends up on terminals and in logs,
// where it could move the cursor, reorder what is written around it, or add lines that look like
// ours.
package safetext

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	ellipsis = "..."
	// replacement stands for a character that is not shown, so that its removal is visible.
	replacement = '?'
)

// Line returns text as one line of printable characters, at most limit bytes long and followed by
// "..." if it was cut.
//
// White space, which includes line breaks, becomes one space; at both ends it is removed. Whatever
// else is not printable becomes "?": control characters and thereby terminal escapes, format
// characters such as the bidirectional controls, private and unassigned code points, and bytes that
// are not UTF-8.
func Line(text string, limit int) string {
	var b strings.Builder
	space := false // white space is pending: it is written only before another character
	for _, r := range text {
		if unicode.IsSpace(r) {
			space = true
			continue
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = replacement
		}
		size := utf8.RuneLen(r)
		if space && b.Len() > 0 {
			size++
		}
		if b.Len()+size > limit {
			b.WriteString(ellipsis)
			break
		}
		if space && b.Len() > 0 {
			b.WriteByte(' ')
		}
		space = false
		b.WriteRune(r)
	}
	return b.String()
}

// IsLine reports whether text can be shown as it is: Line changes nothing but its length.
func IsLine(text string) bool { return Line(text, len(text)) == text }
