package relay

import "ginnel/internal/safetext"

// maxExcerpt bounds the text from the network that is shown, in bytes.
const maxExcerpt = 500

// excerpt returns the start of a text from the network as one line that is safe to show.
func excerpt(text string) string { return safetext.Line(text, maxExcerpt) }

// printableError is an error whose text may quote bytes from the network.
type printableError struct{ error }

// Error implements error.
func (e printableError) Error() string { return excerpt(e.error.Error()) }

// Unwrap returns the error with its original text.
func (e printableError) Unwrap() error { return e.error }
