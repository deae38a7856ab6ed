package policy

import (
	"fmt"
	"strings"
)

// Problem is a remark about a place in the file: an error, a warning or an explanation.
type Problem struct {
	Line, Column int // from 1; columns count bytes
	Text         string
}

func (p Problem) String() string { return fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Text) }

// Problems is the error of Parse and Check: everything that is wrong, in the order of the file.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}
