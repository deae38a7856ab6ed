package relay

import (
	"strings"
	"unicode"
)

// maxExcerpt bounds what is shown of a text from the network.
const maxExcerpt = 500

// excerpt returns the start of a text from the network as one line of printable characters: people
// see it, mostly on terminals, which act upon the others.
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
	for i := range text { // a cut between characters
		if i >= maxExcerpt {
			return text[:i] + "..."
		}
	}
	return text
}

// printableError is an error whose text may quote what came from the network.
type printableError struct{ error }

// Error implements error.
func (e printableError) Error() string { return excerpt(e.error.Error()) }

// Unwrap returns the error as it was.
func (e printableError) Unwrap() error { return e.error }
