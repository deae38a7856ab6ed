package relay

import (
	"strings"
	"unicode"
)

// maxExcerpt bounds the text from the network that is shown, in bytes.
const maxExcerpt = 500

// excerpt returns the start of a text from the network as one line of printable characters. The
// text is shown on terminals, which act upon other characters.
func excerpt(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return '?'
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	for i := range text { // cut between characters
		if i >= maxExcerpt {
			return text[:i] + "..."
		}
	}
	return text
}

// printableError is an error whose text may quote bytes from the network.
type printableError struct{ error }

// Error implements error.
func (e printableError) Error() string { return excerpt(e.error.Error()) }

// Unwrap returns the error with its original text.
func (e printableError) Unwrap() error { return e.error }
