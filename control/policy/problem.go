package policy

import (
	"fmt"
	"strings"
)

// Problem is something in the file that is wrong, or that the writer should know.
type Problem struct {
	Line, Column int // of the first byte, from 1; a column is a byte
	Text         string
}

func (p Problem) String() string { return fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Text) }

// Problems is the error of Parse and of Check: all that is wrong, in the order of the file.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}
