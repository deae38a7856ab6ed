// Package configs parses configuration that users write: the YAML files of --config and
// --dns-config, wg-quick files of --wireguard, and structured values of flags (forwards, served
// ports, proxy addresses, sizes, secrets).
//
// Parsers are strict and have no side effects. All problems of a file are reported together, each
// with file:line:column, and no message contains a secret. What is unusual but usable is returned
// as a warning. The package starts no goroutines and does not log.
package configs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxProblems = 100 // problems that are reported of one file
	maxQuoted   = 80  // bytes of a value that an error quotes
	maxMessage  = 200 // bytes of a message of the YAML parser, which may quote the file
)

// Position is a place in a file. Lines and columns count from 1, columns in characters. Both are
// zero for a problem with the file as a whole.
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

// Problem is a mistake in a file, or a warning about it.
type Problem struct {
	Position
	Text string
}

// String returns file:line:column: text.
func (p Problem) String() string { return p.Position.String() + ": " + p.Text }

// Problems is the error for a file that cannot be used: all of its mistakes, in the order of the
// file.
type Problems []Problem

// Error returns a line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// add adds a problem, unless maxProblems are reported already.
func (p *Problems) add(at Position, format string, args ...any) {
	switch {
	case len(*p) < maxProblems:
		*p = append(*p, Problem{at, fmt.Sprintf(format, args...)})
	case len(*p) == maxProblems:
		*p = append(*p, Problem{at, "and further problems, which are not listed"})
	}
}

// sort sorts problems by line.
func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int { return a.Line - b.Line })
}

// quote quotes and escapes a value for an error, and cuts it to maxQuoted bytes.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:maxQuoted]) + "..."
}
