// Package configs reads what users write: the YAML file of --config, wg-quick files of --wireguard,
// and the values of the flags that are more than a word (forwards, served ports, proxy addresses,
// sizes, secrets).
//
// Parsers are pure and strict. A file's problems are all reported at once, each at its
// file:line:column, and no message holds a secret. The package starts no goroutine and never logs:
// what the user ought to know and can live with comes back as a warning.
package configs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxProblems bounds a report: whoever feeds a wrong file wants to see its start, not all of it.
	maxProblems = 100
	// maxQuoted bounds how much of a value an error repeats.
	maxQuoted = 80
)

// Position is a place in a file. Lines and columns count from 1, columns in characters; a problem
// with the file as a whole has neither.
type Position struct {
	File         string
	Line, Column int
}

// String returns file:line:column, or the file alone.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

// Problem is one thing wrong with a file, or one thing in it that has no effect.
type Problem struct {
	Position
	Text string
}

// String returns file:line:column: text.
func (p Problem) String() string { return p.Position.String() + ": " + p.Text }

// Problems is the error for a file that cannot be used: everything wrong with it, in the order of
// the file.
type Problems []Problem

// Error returns one line a problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// add notes a problem, unless the report is long enough already.
func (p *Problems) add(at Position, format string, args ...any) {
	switch {
	case len(*p) < maxProblems:
		*p = append(*p, Problem{at, fmt.Sprintf(format, args...)})
	case len(*p) == maxProblems:
		*p = append(*p, Problem{at, "and further problems, which are left out"})
	}
}

// sort brings problems into the order of the file.
func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int { return a.Line - b.Line })
}

// quote repeats a value in an error: in quotes, escaped, and cut if it is long.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:maxQuoted]) + "..."
}
