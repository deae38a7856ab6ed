package relay

import "ginnel/internal/safetext"

// maxExcerpt bounds what is shown of a text from the network.
const maxExcerpt = 500

// excerpt returns the start of a text from the network, safe to show.
func excerpt(text string) string { return safetext.Line(text, maxExcerpt) }

// shown is an error whose text may quote what came from the network.
type shown struct{ error }

// Error implements error.
func (e shown) Error() string { return excerpt(e.error.Error()) }

// Unwrap returns the error as it was.
func (e shown) Unwrap() error { return e.error }
